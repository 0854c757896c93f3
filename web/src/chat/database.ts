import { openDB, type DBSchema, type IDBPDatabase, type IDBPTransaction } from 'idb';

import type { Changes, Storage } from './storage';
import type { ChatImage, Head, Message } from './types';

const NAME = 'llamaherd';
const VERSION = 1;

interface Schema extends DBSchema {
  conversations: { key: string; value: Head };
  /** Without their images, so that a turn that is being written is small, and so is all that a search reads. */
  messages: { key: [string, string]; value: Message & { conversation: string } };
  images: { key: [string, string]; value: { conversation: string; id: string; images: ChatImage[] } };
}

export interface Callbacks {
  /** Another tab, of an older page, keeps the database from being opened until it is closed. */
  onblocked: () => void;
  /** The database was closed under the page: a newer page wants it, or the browser cleared it. */
  onclosed: (why: 'newer' | 'cleared') => void;
}

/** Conversations in IndexedDB. */
export class Database implements Storage {
  private constructor(private readonly db: IDBPDatabase<Schema>) {}

  /** Rejects where the browser gives pages no IndexedDB, or the database is of a newer page (VersionError). */
  static async open({ onblocked, onclosed }: Callbacks): Promise<Database> {
    const db = await openDB<Schema>(NAME, VERSION, {
      upgrade(db, from) {
        if (from < 1) {
          db.createObjectStore('conversations', { keyPath: 'id' });
          db.createObjectStore('messages', { keyPath: ['conversation', 'id'] });
          db.createObjectStore('images', { keyPath: ['conversation', 'id'] });
        }
      },
      blocked: onblocked,
      blocking(_from, _to, event) {
        // Else the newer page would wait for this one.
        (event.target as IDBDatabase).close();
        onclosed('newer');
      },
      terminated: () => onclosed('cleared'),
    });
    const database = new Database(db);
    await database.#sweep();
    return database;
  }

  heads(): Promise<Head[]> {
    return this.db.getAll('conversations');
  }

  head(conversation: string): Promise<Head | undefined> {
    return this.db.get('conversations', conversation);
  }

  async words(conversation: string): Promise<Message[]> {
    const stored = await this.db.getAll('messages', allOf(conversation));
    return stored.map(({ conversation: _, ...message }) => message);
  }

  async messages(conversation: string): Promise<Message[]> {
    const reading = this.db.transaction(['messages', 'images']);
    const [stored, pictures] = await Promise.all([
      reading.objectStore('messages').getAll(allOf(conversation)),
      reading.objectStore('images').getAll(allOf(conversation)),
    ]);
    const images = new Map(pictures.map((picture) => [picture.id, picture.images]));
    return stored.map(({ conversation: _, ...message }) => ({ ...message, images: images.get(message.id) ?? [] }));
  }

  /** All requests but those of `patches` are made before this returns: they outlive a page that is being closed. */
  async write(changes: Changes): Promise<void> {
    const writing = this.db.transaction(['conversations', 'messages', 'images'], 'readwrite');
    const requests: Promise<unknown>[] = [];
    try {
      request(changes, writing, requests);
      if (!changes.patches?.size) writing.commit();
      // Of a transaction that fails, the request that made it fail tells why; `done` may only say that it was aborted.
      await Promise.all([...requests, writing.done]);
    } catch (error) {
      for (const other of [...requests, writing.done]) other.catch(() => undefined);
      abort(writing);
      throw error;
    }
  }

  close(): void {
    this.db.close();
  }

  /** Forget turns without a conversation: another tab wrote them while theirs was being deleted. */
  async #sweep(): Promise<void> {
    const writing = this.db.transaction(['conversations', 'messages', 'images'], 'readwrite');
    const known = new Set(await writing.objectStore('conversations').getAllKeys());
    for (const name of ['messages', 'images'] as const) {
      const store = writing.objectStore(name);
      for (const key of await store.getAllKeys()) if (!known.has(key[0])) void store.delete(key);
    }
    await writing.done;
  }
}

type Writing = IDBPTransaction<Schema, ('conversations' | 'messages' | 'images')[], 'readwrite'>;

function request(changes: Changes, writing: Writing, requests: Promise<unknown>[]): void {
  const { added, patches, messages, turns, removed } = changes;
  const heads = writing.objectStore('conversations');
  const stored = writing.objectStore('messages');
  const pictures = writing.objectStore('images');
  for (const head of added ?? []) requests.push(heads.put(head));
  for (const { conversation, message } of messages ?? []) {
    const { images, ...rest } = message;
    requests.push(stored.put({ ...rest, images: [], conversation }));
    // A turn never loses its images, or gets others.
    if (images.length) requests.push(pictures.put({ conversation, id: message.id, images }));
  }
  for (const { conversation, id } of turns ?? []) {
    requests.push(stored.delete([conversation, id]), pictures.delete([conversation, id]));
  }
  for (const id of removed ?? []) {
    requests.push(heads.delete(id), stored.delete(allOf(id)), pictures.delete(allOf(id)));
  }
  for (const [id, fields] of patches ?? []) {
    requests.push(heads.get(id).then((head) => head && heads.put({ ...head, ...fields })));
  }
}

/** Nothing of it is kept, also where some of its requests were well. */
function abort(writing: Writing): void {
  try {
    writing.abort();
  } catch {
    // It was aborted already.
  }
}

/** The keys of everything that a conversation has. */
function allOf(conversation: string): IDBKeyRange {
  return IDBKeyRange.bound([conversation], [conversation, []]);
}
