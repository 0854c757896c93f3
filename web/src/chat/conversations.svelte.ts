import { Archive } from './archive.svelte';
import { Follower, type Reading } from './follower';
import { Heads } from './heads.svelte';
import { merge } from './merge';
import { OpenTurns } from './open-turns.svelte';
import { presentOwner } from './owner';
import { Tabs } from './tabs';
import { rooted, turnOf, type Messages } from './tree';
import type { Conversation, Head, Message, Owner } from './types';

/** The conversations of this browser: on the page at once, in IndexedDB soon, in the other tabs then. */
export class Conversations {
  phase = $state<'opening' | 'ready'>('opening');
  readonly heads: Heads;
  readonly tabs = new Tabs();
  readonly archive = new Archive(
    {
      head: (id) => this.head(id),
      message: (conversation, id) => {
        const messages = this.#turns.get(conversation);
        const message = messages && turnOf(messages, id);
        return message && ($state.snapshot(message) as Message);
      },
    },
    { onread: (heads) => this.#read(heads), onwritten: (conversations) => this.#written(conversations) },
  );

  /** To be told, and asked, by what writes answers (answers.svelte.ts): one into that turn, or any. */
  isAnswering: (conversation: string, message?: string) => boolean = () => false;
  onremoved: (conversation: string) => void = () => undefined;

  #started: Promise<void> | null = null;
  #opening = new Map<string, Promise<boolean>>();
  #turns = new OpenTurns((id) => this.#isNeeded(id));
  #follower = new Follower(
    this.archive,
    (id) => this.#turns.get(id),
    (readings) => this.#take(readings),
  );

  /** `owner`: whose conversations are made and listed. */
  constructor(owner: () => Owner | null = presentOwner) {
    this.heads = new Heads(owner);
    this.tabs.on('changed', ({ conversations }) => this.#follower.follow(conversations));
    this.tabs.on('removed', ({ conversations }) => this.forget(conversations));
  }

  /** Read what is kept; again and again the same promise. */
  start(): Promise<void> {
    return (this.#started ??= this.#start());
  }

  find(id: string): Head | undefined {
    return this.heads.find(id);
  }

  /** The turns of one that was opened. */
  messages(id: string): Messages | undefined {
    return this.#turns.get(id);
  }

  /** Have the turns of one, to be shown; false: there is none of that id. */
  open(id: string): Promise<boolean> {
    if (this.#turns.has(id)) {
      this.#turns.show(id);
      return Promise.resolve(true);
    }
    const opening = this.#opening.get(id) ?? this.#open(id).finally(() => this.#opening.delete(id));
    this.#opening.set(id, opening);
    return opening;
  }

  /** A new one, without turns; `flush` writes it. */
  add(head: Head): void {
    this.#follower.edited(head.id);
    this.heads.take([{ ...head, owner: this.heads.owner() ?? undefined }]);
    this.#turns.set(head.id, {});
    this.archive.writer.whole(head.id);
  }

  change(id: string, fields: Partial<Head>): void {
    const head = this.find(id);
    if (!head) return;
    this.#follower.edited(id);
    Object.assign(head, fields);
    this.archive.writer.fields(id, Object.keys(fields) as (keyof Head)[]);
    this.archive.writer.soon();
  }

  /** Add a turn, or replace one. What is returned tells the page when it is changed; call `grown` then. */
  put(conversation: string, message: Message): Message {
    const messages = this.#turns.get(conversation);
    if (!messages) throw new Error('The conversation is not open.');
    this.#follower.edited(conversation);
    messages[message.id] = message;
    this.archive.writer.turn(conversation, message.id);
    return messages[message.id]!;
  }

  /** Take away a turn. */
  take(conversation: string, id: string): void {
    const messages = this.#turns.get(conversation);
    if (!messages) return;
    this.#follower.edited(conversation);
    delete messages[id];
    this.archive.writer.turn(conversation, id);
  }

  /** A turn was changed in place: written within a second. */
  grown(conversation: string, id: string): void {
    this.archive.writer.turn(conversation, id);
    this.archive.writer.soon();
  }

  /** Write all now. False: it failed, and is tried again. */
  flush(): Promise<boolean> {
    return this.archive.writer.flush();
  }

  /** Take them off the page. */
  forget(conversations: string[]): void {
    for (const id of conversations) {
      this.#follower.edited(id);
      this.onremoved(id);
      this.archive.writer.forget(id);
      this.#turns.delete(id);
    }
    this.heads.remove(conversations);
    this.heads.renewed(conversations);
  }

  /** One without its turns, as it is now. */
  head(id: string): Head | undefined {
    return $state.snapshot(this.find(id)) as Head | undefined;
  }

  /** One that is open, as it is now. */
  whole(id: string): Conversation | null {
    const head = this.find(id);
    const messages = this.#turns.get(id);
    return head && messages ? ($state.snapshot({ ...head, messages }) as Conversation) : null;
  }

  /** Let go of the database and the other tabs. */
  close(): void {
    this.archive.close();
    this.tabs.close();
  }

  async #start(): Promise<void> {
    await this.archive.open();
    this.phase = 'ready';
    this.tabs.tell('hello', {});
  }

  async #open(id: string): Promise<boolean> {
    await this.start();
    if (!this.find(id)) return false;
    const messages = rooted(await this.archive.storage.messages(id));
    if (!this.find(id)) return false;
    if (!this.#turns.has(id)) this.#turns.set(id, Object.fromEntries(messages.map((message) => [message.id, message])));
    return true;
  }

  /** What is stored is what is there, but for what this page alone has. */
  #read(heads: Head[]): void {
    const stored = new Set(heads.map(({ id }) => id));
    const missing = this.heads.all.filter(({ id }) => !stored.has(id)).map(({ id }) => id);
    const needed = new Set(this.heads.all.filter(({ id }) => this.#isNeeded(id)).map(({ id }) => id));
    for (const id of missing.filter((one) => needed.has(one))) {
      this.archive.writer.whole(id);
      for (const turn of Object.keys(this.#turns.get(id) ?? {})) this.archive.writer.turn(id, turn);
    }
    this.forget(missing.filter((id) => !needed.has(id)));
    this.heads.take(heads.filter(({ id }) => !needed.has(id)));
    this.heads.renewed(heads.map(({ id }) => id));
  }

  /** What another tab has changed. */
  #take(readings: Reading[]): void {
    this.heads.take(readings.flatMap(({ head }) => head ?? []));
    for (const { id, turns } of readings) {
      const messages = this.#turns.get(id);
      const isOwn = (one: string): boolean => this.isAnswering(id, one) || this.archive.writer.holds(id, one);
      if (messages) merge(messages, turns, isOwn);
    }
    this.forget(readings.filter(({ head }) => !head).map(({ id }) => id));
    this.heads.renewed(readings.map(({ id }) => id));
  }

  #written(conversations: string[]): void {
    this.heads.renewed(conversations);
    const gone = conversations.filter((id) => !this.find(id));
    const there = conversations.filter((id) => this.find(id));
    if (there.length) this.tabs.tell('changed', { conversations: there });
    if (gone.length) this.tabs.tell('removed', { conversations: gone });
    this.#follower.again();
  }

  /** This page has what no other place has. */
  #isNeeded(id: string): boolean {
    return this.isAnswering(id) || this.archive.writer.unwritten().includes(id);
  }
}

export const conversations = new Conversations();
