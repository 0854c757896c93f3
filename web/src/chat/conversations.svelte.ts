import { SvelteMap } from 'svelte/reactivity';

import { Database } from './database';
import type { Stored } from './search';
import { MemoryStorage, type Storage } from './storage';
import { Tabs } from './tabs';
import { subtree, type Messages } from './tree';
import type { Conversation, Head, Message } from './types';
import { Writer } from './writer';

/** Something is wrong with where conversations are kept, and what helps. */
export interface Problem {
  text: string;
  help: 'reload' | 'retry' | null;
}

/** The conversations of this browser: on the page at once, in IndexedDB soon, in the other tabs then. */
export class Conversations {
  phase = $state<'opening' | 'ready'>('opening');
  /** They outlive the page. */
  kept = $state(true);
  problem = $state<Problem | null>(null);
  heads = $state<Head[]>([]);
  newestFirst = $derived(this.heads.toSorted((one, other) => other.changed - one.changed));
  /** Counts what was written, here or in another tab: what was found before may be old. */
  revision = $state(0);

  /** The turns of those that were opened. */
  #messages = new SvelteMap<string, Messages>();
  #opening = new Map<string, Promise<boolean>>();
  #storage: Storage = new MemoryStorage();
  #started: Promise<void> | null = null;
  /** Counts the changes of a conversation that were made here. */
  #edits = new Map<string, number>();
  #writer = new Writer(
    () => this.#storage,
    {
      head: (id) => $state.snapshot(this.find(id)) as Head | undefined,
      message: (conversation, id) => $state.snapshot(this.#messages.get(conversation)?.[id]) as Message | undefined,
    },
    {
      onwritten: (conversations) => {
        this.revision += 1;
        if (this.problem?.help === 'retry') this.problem = null;
        const gone = conversations.filter((id) => !this.find(id));
        const there = conversations.filter((id) => this.find(id));
        if (there.length) this.tabs.tell({ kind: 'changed', conversations: there });
        if (gone.length) this.tabs.tell({ kind: 'removed', conversations: gone });
      },
      onfailed: (error) => (this.problem ??= problemOf(error)),
    },
  );

  /** To be told, and asked, by what writes answers (answers.svelte.ts). */
  isAnswering: (message: string) => boolean = () => false;
  onremoved: (conversation: string) => void = () => undefined;
  onanswering: (tab: string, turns: string[]) => void = () => undefined;
  onhello: () => void = () => undefined;

  readonly tabs = new Tabs({
    onchanged: (conversations) => conversations.forEach((id) => void this.#reread(id)),
    onremoved: (conversations) => conversations.forEach((id) => this.#forget(id)),
    onanswering: (tab, turns) => this.onanswering(tab, turns),
    onhello: () => this.onhello(),
  });

  /** Read what is kept; again and again the same promise. */
  start(): Promise<void> {
    return (this.#started ??= this.#start());
  }

  find(id: string): Head | undefined {
    return this.heads.find((head) => head.id === id);
  }

  /** The turns of one that was opened. */
  messages(id: string): Messages | undefined {
    return this.#messages.get(id);
  }

  /** Read the turns of one; false: there is none of that id. */
  open(id: string): Promise<boolean> {
    if (this.#messages.has(id)) return Promise.resolve(true);
    const opening = this.#opening.get(id) ?? this.#open(id).finally(() => this.#opening.delete(id));
    this.#opening.set(id, opening);
    return opening;
  }

  /** A new one, without turns; `flush` writes it. */
  add(head: Head): void {
    this.#edited(head.id);
    this.heads.push(head);
    this.#messages.set(head.id, record({}));
    this.#writer.whole(head.id);
  }

  change(id: string, fields: Partial<Head>): void {
    const head = this.find(id);
    if (!head) return;
    this.#edited(id);
    Object.assign(head, fields);
    this.#writer.fields(id, Object.keys(fields) as (keyof Head)[]);
    this.#writer.soon();
  }

  /** Add a turn, or replace one. What is returned tells the page when it is changed; call `grown` then. */
  put(conversation: string, message: Message): Message {
    const messages = this.#messages.get(conversation);
    if (!messages) throw new Error('The conversation is not open.');
    this.#edited(conversation);
    messages[message.id] = message;
    this.#writer.turn(conversation, message.id);
    return messages[message.id]!;
  }

  /** A turn was changed in place: written within a second. */
  grown(conversation: string, id: string): void {
    this.#writer.turn(conversation, id);
    this.#writer.soon();
  }

  /** Write all now. */
  flush(): Promise<boolean> {
    return this.#writer.flush();
  }

  /** Take away a turn and all that follow it, and show `leaf`. Returns what puts them back. */
  removeTurns(conversation: string, id: string, leaf: string | null): () => void {
    const messages = this.#messages.get(conversation);
    const head = this.find(conversation);
    if (!messages || !head) return () => undefined;
    const gone = subtree(messages, id).map((one) => $state.snapshot(messages[one]) as Message);
    const { leaf: oldLeaf, pair } = $state.snapshot(head) as Head;
    for (const message of gone) {
      delete messages[message.id];
      this.#writer.turn(conversation, message.id);
    }
    const broken = pair?.some((one) => !messages[one]) ?? false;
    this.change(conversation, { leaf, pair: broken ? null : pair });
    return () => {
      if (!this.#messages.has(conversation)) return;
      for (const message of gone) this.put(conversation, message);
      this.change(conversation, { leaf: oldLeaf, pair });
    };
  }

  /** Delete one, here, there and in the other tabs. Returns what puts it back. */
  async remove(id: string): Promise<() => Promise<void>> {
    await this.open(id);
    const conversation = this.whole(id);
    this.#forget(id);
    this.#writer.whole(id);
    await this.#writer.flush();
    return async () => {
      if (conversation) await this.addAll([conversation]);
    };
  }

  /** Add whole ones, all or none. Throws what the storage says. */
  async addAll(conversations: Conversation[]): Promise<void> {
    const added = conversations.map(({ messages: _, ...head }) => head);
    const messages = conversations.flatMap((conversation): Stored[] =>
      Object.values(conversation.messages).map((message) => ({ conversation: conversation.id, message })),
    );
    try {
      await this.#storage.write({ added, messages });
    } catch (error) {
      throw new Error(problemOf(error).text, { cause: error });
    }
    this.heads.push(...added);
    this.revision += 1;
    this.tabs.tell({ kind: 'changed', conversations: added.map(({ id }) => id) });
  }

  /** One that is open, as it is exported. */
  whole(id: string): Conversation | null {
    const head = this.find(id);
    const messages = this.#messages.get(id);
    return head && messages ? ($state.snapshot({ ...head, messages }) as Conversation) : null;
  }

  /** All of them, newest first. */
  async all(): Promise<Conversation[]> {
    await this.flush();
    const heads = $state.snapshot(this.newestFirst) as Head[];
    return Promise.all(
      heads.map(async (head) => {
        const messages = await this.#storage.messages(head.id);
        return { ...head, messages: Object.fromEntries(messages.map((message) => [message.id, message])) };
      }),
    );
  }

  /** The turns of all of them, without images. */
  async texts(): Promise<Stored[]> {
    await this.flush();
    return this.#storage.texts();
  }

  /** Let go of the database and the other tabs. */
  close(): void {
    this.#storage.close();
    this.tabs.close();
    removeEventListener('pagehide', this.#leave);
    document.removeEventListener('visibilitychange', this.#leave);
  }

  async #start(): Promise<void> {
    // A page may be gone without another word once it is hidden.
    addEventListener('pagehide', this.#leave);
    document.addEventListener('visibilitychange', this.#leave);
    await this.#connect();
    this.phase = 'ready';
    this.tabs.tell({ kind: 'hello' });
  }

  async #connect(): Promise<void> {
    try {
      this.#storage = await Database.open({
        onblocked: () =>
          (this.problem = {
            text: 'Another tab has an older version of this page open. Close it, so that the chats can be read.',
            help: null,
          }),
        onclosed: (why) => {
          if (why === 'cleared') void this.#connect();
          else this.problem = NEWER;
        },
      });
      this.problem = null;
      this.heads = await this.#storage.heads();
    } catch (error) {
      this.#storage = new MemoryStorage();
      this.kept = false;
      if (error instanceof DOMException && error.name === 'VersionError') this.problem = NEWER;
    }
  }

  async #open(id: string): Promise<boolean> {
    await this.start();
    if (!this.find(id)) return false;
    const messages = await this.#storage.messages(id);
    if (!this.find(id)) return false;
    this.#messages.set(id, record(Object.fromEntries(messages.map((message) => [message.id, message]))));
    return true;
  }

  /** Another tab has changed it. */
  async #reread(id: string): Promise<void> {
    // What changed here meanwhile is newer than what was read.
    for (let tries = 0; tries < 3; tries += 1) {
      await this.#writer.flush();
      const edits = this.#edits.get(id);
      const heads = await this.#storage.heads();
      const stored = this.#messages.has(id) ? await this.#storage.messages(id) : [];
      if (edits !== this.#edits.get(id)) continue;
      const head = heads.find((one) => one.id === id);
      if (!head) return this.#forget(id);
      const known = this.find(id);
      if (known) Object.assign(known, head);
      else this.heads.push(head);
      this.#merge(id, stored);
      this.revision += 1;
      return;
    }
  }

  #merge(id: string, stored: Message[]): void {
    const messages = this.#messages.get(id);
    if (!messages) return;
    for (const message of stored) {
      const known = messages[message.id];
      if (!known) messages[message.id] = message;
      // Images never change, and are large.
      else if (!this.isAnswering(message.id)) Object.assign(known, { ...message, images: known.images });
    }
    const there = new Set(stored.map((message) => message.id));
    for (const one of Object.keys(messages)) if (!there.has(one) && !this.isAnswering(one)) delete messages[one];
  }

  #forget(id: string): void {
    this.#edited(id);
    this.onremoved(id);
    this.#writer.forget(id);
    this.heads = this.heads.filter((head) => head.id !== id);
    this.#messages.delete(id);
    this.revision += 1;
  }

  #edited(id: string): void {
    this.#edits.set(id, (this.#edits.get(id) ?? 0) + 1);
  }

  #leave = (event: Event): void => {
    if (event.type === 'pagehide' || document.visibilityState === 'hidden') void this.#writer.flush();
  };
}

const NEWER: Problem = {
  text: 'A newer version of this page is open in another tab. Reload this one: until then nothing new is kept here.',
  help: 'reload',
};

function problemOf(error: unknown): Problem {
  const name = error instanceof DOMException ? error.name : '';
  if (name === 'QuotaExceededError') {
    return {
      text: 'This browser has no room left for chats. Export those you need and delete some; then try again.',
      help: 'retry',
    };
  }
  if (name === 'InvalidStateError') return NEWER;
  return { text: 'The browser could not keep the last changes.', help: 'retry' };
}

/** Turns that tell the page when they change. */
function record(messages: Messages): Messages {
  const watched = $state(messages);
  return watched;
}

export const conversations = new Conversations();
