import { openDatabase } from './open-database';
import { askToPersist } from './persist';
import { BLOCKED, CLOSED, LATE, NEWER, problemOf, type Problem } from './problem';
import { MemoryStorage, type Storage } from './storage';
import type { Head } from './types';
import { Writer, type Source } from './writer';

/** What could not be written is tried again after a while, then after twice that, up to the last. Milliseconds. */
const FIRST_PAUSE = 2000;
const LAST_PAUSE = 60_000;

interface Callbacks {
  /** All that is stored: at first, and when the storage had to be opened again. */
  onread: (heads: Head[]) => void;
  /** These conversations were written. */
  onwritten: (conversations: string[]) => void;
}

/** Where conversations are kept, what is to be written there, and what is wrong with it. */
export class Archive {
  /** It outlives the page. */
  kept = $state(true);
  problem = $state.raw<Problem | null>(null);
  storage: Storage = new MemoryStorage();
  readonly writer: Writer;

  #closed = false;
  #pause = FIRST_PAUSE;
  #retry: ReturnType<typeof setTimeout> | undefined;

  constructor(
    source: Source,
    private readonly callbacks: Callbacks,
  ) {
    this.writer = new Writer(() => this.storage, source, {
      onwritten: (conversations) => {
        this.#solved();
        callbacks.onwritten(conversations);
        if (this.kept) void askToPersist();
      },
      onfailed: (error) => this.#fail(problemOf(error)),
    });
  }

  /** Without IndexedDB, all is kept on the page alone. */
  async open(): Promise<void> {
    // A page may be gone without another word once it is hidden.
    addEventListener('pagehide', this.#leave);
    document.addEventListener('visibilitychange', this.#leave);
    addEventListener('beforeunload', this.#warn);
    try {
      await this.#connect();
    } catch (error) {
      this.kept = false;
      if (error instanceof DOMException && error.name === 'VersionError') this.problem = NEWER;
    }
  }

  /** Write what could not be written. */
  async retry(): Promise<void> {
    if (this.#closed) await this.#reopen();
    if (!this.#closed && (await this.writer.flush())) this.#solved();
  }

  close(): void {
    clearTimeout(this.#retry);
    this.storage.close();
    removeEventListener('pagehide', this.#leave);
    document.removeEventListener('visibilitychange', this.#leave);
    removeEventListener('beforeunload', this.#warn);
  }

  /** The browser closed the storage, as it does where somebody clears what pages keep. */
  lost(): void {
    this.#closed = true;
    void this.#reopen();
  }

  async #connect(): Promise<void> {
    const database = await openDatabase(
      {
        onblocked: () => (this.problem = BLOCKED),
        onclosed: (why) => {
          if (why === 'newer') this.problem = NEWER;
          else this.lost();
        },
      },
      () => (this.problem = LATE),
    );
    try {
      const heads = await database.heads();
      this.storage = database;
      this.problem = null;
      this.callbacks.onread(heads);
    } catch (error) {
      database.close();
      throw error;
    }
  }

  async #reopen(): Promise<void> {
    try {
      await this.#connect();
      this.#closed = false;
      await this.writer.flush();
    } catch {
      this.#fail(CLOSED);
    }
  }

  #fail(problem: Problem): void {
    this.problem ??= problem;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#pause = Math.min(2 * this.#pause, LAST_PAUSE);
      void this.retry();
    }, this.#pause);
  }

  #solved(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#pause = FIRST_PAUSE;
    if (this.problem?.help === 'retry') this.problem = null;
  }

  #leave = (event: Event): void => {
    if (event.type === 'pagehide' || document.visibilityState === 'hidden') void this.writer.flush();
  };

  #warn = (event: Event): void => {
    if (this.problem && this.writer.unwritten().length) event.preventDefault();
  };
}
