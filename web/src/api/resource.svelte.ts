import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { messageOf, type Client } from './client';

/** What the service answered to one question; it stays where asking again fails. */
export class Resource<T> {
  /** Null: not known yet. */
  value = $state.raw<T | null>(null);
  /** Why it could not be read the last time. */
  problem = $state<string | null>(null);

  #asked = 0;
  /** Which of the questions was answered last. */
  #told = 0;
  #stop: AbortSignal | undefined;

  /** `read` asks. What it reads of states before its first `await` has it asked again by `follow`. */
  constructor(private readonly read: (client: Client, signal?: AbortSignal) => Promise<T>) {}

  /** Ask. Answers that come out of order leave what the latest question brought. */
  async load(): Promise<void> {
    const asked = ++this.#asked;
    const stop = this.#stop;
    try {
      const value = await this.read(session.client, stop);
      if (!this.#isNews(asked, stop)) return;
      this.value = value;
      this.problem = null;
    } catch (error) {
      if (this.#isNews(asked, stop)) this.problem = messageOf(error);
    }
  }

  /**
   * As long as the component lives that begins with this: ask, and again with another key, at these events of the feed,
   * and each `every` milliseconds while somebody looks.
   */
  follow(kinds: readonly string[], every?: number): void {
    $effect(() => {
      const stop = new AbortController();
      this.#stop = stop.signal;
      const load = (): void => void this.load();
      load();
      const ends = kinds.map((kind) => feed.on(kind, load));
      const timer = every === undefined ? undefined : setInterval(() => document.hidden || load(), every);
      return () => {
        clearInterval(timer);
        for (const end of ends) end();
        stop.abort();
      };
    });
  }

  #isNews(asked: number, stop: AbortSignal | undefined): boolean {
    if (stop?.aborted || asked < this.#told) return false;
    this.#told = asked;
    return true;
  }
}
