import type { Head, Message } from './types';

/** A turn and the conversation that it is of. */
export interface Stored {
  conversation: string;
  message: Message;
}

/** What is to be written, all of it or nothing. */
export interface Changes {
  /** New conversations; one that is there already is replaced. */
  added?: Head[];
  /** Fields of conversations that changed; those of one that is gone are left out. */
  patches?: Map<string, Partial<Head>>;
  messages?: Stored[];
  /** Turns that go. */
  turns?: { conversation: string; id: string }[];
  /** Conversations that go, with all their turns. */
  removed?: string[];
}

/** Where conversations are kept. */
export interface Storage {
  heads(): Promise<Head[]>;
  head(conversation: string): Promise<Head | undefined>;
  messages(conversation: string): Promise<Message[]>;
  /** The same without their images, which are large. */
  words(conversation: string): Promise<Message[]>;
  write(changes: Changes): Promise<void>;
  close(): void;
}

/** Keeps them until the page is closed. */
export class MemoryStorage implements Storage {
  #heads = new Map<string, Head>();
  #messages = new Map<string, Map<string, Message>>();

  async heads(): Promise<Head[]> {
    return [...this.#heads.values()].map((head) => structuredClone(head));
  }

  async head(conversation: string): Promise<Head | undefined> {
    return structuredClone(this.#heads.get(conversation));
  }

  async words(conversation: string): Promise<Message[]> {
    return this.messages(conversation);
  }

  async messages(conversation: string): Promise<Message[]> {
    return [...(this.#messages.get(conversation)?.values() ?? [])].map((message) => structuredClone(message));
  }

  async write({ added, patches, messages, turns, removed }: Changes): Promise<void> {
    for (const head of added ?? []) this.#heads.set(head.id, head);
    for (const [id, fields] of patches ?? []) {
      const head = this.#heads.get(id);
      if (head) this.#heads.set(id, { ...head, ...fields });
    }
    for (const { conversation, message } of messages ?? []) {
      const others = this.#messages.get(conversation) ?? new Map<string, Message>();
      this.#messages.set(conversation, others.set(message.id, message));
    }
    for (const { conversation, id } of turns ?? []) this.#messages.get(conversation)?.delete(id);
    for (const id of removed ?? []) {
      this.#heads.delete(id);
      this.#messages.delete(id);
    }
  }

  close(): void {
    // Nothing is open.
  }
}
