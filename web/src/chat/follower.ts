import type { Archive } from './archive.svelte';
import { rooted, turnOf, type Messages } from './tree';
import type { Head, Message } from './types';

/** What changes here while it is read is newer than what was read. */
const TRIES = 3;

/** A conversation as another tab has left it; without a head it is gone. */
export interface Reading {
  id: string;
  head: Head | undefined;
  turns: Message[];
}

/** Reads what other tabs have changed. */
export class Follower {
  /** Counts the changes of a conversation that were made here. */
  #edits = new Map<string, number>();
  /** What could not be read, or changed here meanwhile. */
  #unread = new Set<string>();

  /** `messages`: the turns of a conversation that is open. */
  constructor(
    private readonly archive: Archive,
    private readonly messages: (conversation: string) => Messages | undefined,
    private readonly onread: (readings: Reading[]) => void,
  ) {}

  /** A conversation was changed here. */
  edited(conversation: string): void {
    this.#edits.set(conversation, (this.#edits.get(conversation) ?? 0) + 1);
  }

  /** Another tab has changed them. */
  follow(conversations: string[]): void {
    this.#read(conversations).catch(() => conversations.forEach((id) => this.#unread.add(id)));
  }

  /** Something was written: what could not be read before may be now. */
  again(): void {
    if (!this.#unread.size) return;
    const conversations = [...this.#unread];
    this.#unread.clear();
    this.follow(conversations);
  }

  async #read(conversations: string[]): Promise<void> {
    let left = conversations;
    for (let tries = 0; tries < TRIES && left.length; tries += 1) {
      // What can't be written is nowhere but here, and would be taken for deleted.
      if (!(await this.archive.writer.flush())) break;
      const edits = new Map(left.map((id) => [id, this.#edits.get(id)]));
      const heads = new Map((await this.#heads(left)).map((head) => [head.id, head]));
      const readings: Reading[] = [];
      for (const id of left) readings.push({ id, head: heads.get(id), turns: await this.#turns(id) });
      const settled = readings.filter(({ id }) => edits.get(id) === this.#edits.get(id));
      this.onread(settled);
      const done = new Set(settled.map(({ id }) => id));
      left = left.filter((id) => !done.has(id));
    }
    for (const id of left) this.#unread.add(id);
  }

  async #heads(conversations: string[]): Promise<Head[]> {
    if (conversations.length > 1) return this.archive.storage.heads();
    const head = await this.archive.storage.head(conversations[0]!);
    return head ? [head] : [];
  }

  /** Of one that is open; without images, where nothing is new. */
  async #turns(conversation: string): Promise<Message[]> {
    const known = this.messages(conversation);
    if (!known) return [];
    const words = rooted(await this.archive.storage.words(conversation));
    if (words.every(({ id }) => turnOf(known, id))) return words;
    return rooted(await this.archive.storage.messages(conversation));
  }
}
