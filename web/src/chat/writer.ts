import type { Changes, Storage } from './storage';
import type { Head, Message } from './types';

/** How long a turn that grows may go unwritten. Milliseconds. */
const PAUSE = 1000;

type Field = keyof Head;

/** What is to be written as it is at that time; undefined: it is gone, and so goes what is kept of it. */
export interface Source {
  head(conversation: string): Head | undefined;
  message(conversation: string, id: string): Message | undefined;
}

interface Callbacks {
  /** These conversations were written. */
  onwritten: (conversations: string[]) => void;
  /** Something was not, and is tried again with the next `flush`. */
  onfailed: (error: unknown) => void;
}

/** Remembers what changed, and writes it: at once, or a while later. */
export class Writer {
  /** Conversations that came or went. */
  #whole = new Set<string>();
  #fields = new Map<string, Set<Field>>();
  #turns = new Map<string, Set<string>>();
  /** Writes that are under way, and the conversations of each. */
  #writes = new Map<Promise<boolean>, string[]>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #last = -Infinity;

  constructor(
    private readonly storage: () => Storage,
    private readonly source: Source,
    private readonly callbacks: Callbacks,
  ) {}

  /** A conversation came or went. */
  whole(conversation: string): void {
    this.#whole.add(conversation);
  }

  fields(conversation: string, names: Iterable<Field>): void {
    this.#fields.set(conversation, new Set([...(this.#fields.get(conversation) ?? []), ...names]));
  }

  /** A turn came, changed or went. */
  turn(conversation: string, id: string): void {
    this.#turns.set(conversation, (this.#turns.get(conversation) ?? new Set()).add(id));
  }

  /** A turn is not written as it is now. */
  holds(conversation: string, id: string): boolean {
    return this.#turns.get(conversation)?.has(id) ?? false;
  }

  /** The conversations of which something is not written yet. */
  unwritten(): string[] {
    return [...new Set([...this.#pending(), ...[...this.#writes.values()].flat()])];
  }

  /** Write nothing of a conversation: another tab has deleted it. */
  forget(conversation: string): void {
    this.#whole.delete(conversation);
    this.#fields.delete(conversation);
    this.#turns.delete(conversation);
  }

  /** Write within a second, and not more often, however often this is called. */
  soon(): void {
    // Timers of a hidden page come late; the next piece of an answer, which calls this too, does not.
    const wait = this.#last + PAUSE - performance.now();
    if (wait <= 0) void this.flush();
    else this.#timer ??= setTimeout(() => void this.flush(), wait);
  }

  /** Write what there is. False: it failed, or what was being written already has. */
  async flush(): Promise<boolean> {
    const conversations = this.#pending();
    const writing = this.#write(conversations).finally(() => this.#writes.delete(writing));
    this.#writes.set(writing, conversations);
    return (await Promise.all(this.#writes.keys())).every(Boolean);
  }

  #pending(): string[] {
    return [...new Set([...this.#whole, ...this.#fields.keys(), ...this.#turns.keys()])];
  }

  async #write(conversations: string[]): Promise<boolean> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#last = performance.now();
    const [whole, fields, turns] = [this.#whole, this.#fields, this.#turns];
    if (!conversations.length) return true;
    [this.#whole, this.#fields, this.#turns] = [new Set(), new Map(), new Map()];
    try {
      await this.storage().write(this.#changes(whole, fields, turns));
    } catch (error) {
      for (const conversation of whole) this.whole(conversation);
      for (const [conversation, names] of fields) this.fields(conversation, names);
      for (const [conversation, ids] of turns) for (const id of ids) this.turn(conversation, id);
      this.callbacks.onfailed(error);
      return false;
    }
    this.callbacks.onwritten(conversations);
    return true;
  }

  #changes(whole: Set<string>, fields: Map<string, Set<Field>>, turns: Map<string, Set<string>>): Changes {
    const changes: Required<Changes> = { added: [], patches: new Map(), messages: [], turns: [], removed: [] };
    for (const conversation of whole) {
      const head = this.source.head(conversation);
      if (head) changes.added.push(head);
      else changes.removed.push(conversation);
    }
    for (const [conversation, names] of fields) {
      const head = this.source.head(conversation);
      if (!head || whole.has(conversation)) continue;
      changes.patches.set(conversation, Object.fromEntries([...names].map((name) => [name, head[name]])));
    }
    for (const [conversation, ids] of turns) {
      for (const id of ids) {
        const message = this.source.message(conversation, id);
        if (message) changes.messages.push({ conversation, message });
        else changes.turns.push({ conversation, id });
      }
    }
    return changes;
  }
}
