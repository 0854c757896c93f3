import { messageOf } from '../api/client';
import type { CaptureState } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';

/** Whether the service keeps bodies of requests and answers, and how many it has. */
export class Capture {
  now = $state.raw<CaptureState | null>(null);
  problem = $state('');

  /** How often it was asked for: only the last answer counts. */
  #loads = 0;

  /** Keep it up to date until the returned function is called. */
  follow(): () => void {
    void this.load();
    const load = (): void => void this.load();
    const ends = [
      feed.on('capture', load),
      feed.on('history', load), // captures are forgotten with it
      feed.on('snapshot', load),
      feed.on<{ captured?: boolean }>('request', ({ captured }) => {
        if (captured && this.now) {
          this.now = { ...this.now, captures: Math.min(this.now.keep, this.now.captures + 1) };
        }
      }),
    ];
    return () => ends.forEach((end) => end());
  }

  async load(): Promise<void> {
    const client = session.client;
    const load = ++this.#loads;
    const isOver = (): boolean => client !== session.client || load !== this.#loads;
    try {
      const now = await client.get<CaptureState>('/admin/capture');
      if (isOver()) return;
      this.now = now;
      this.problem = '';
    } catch (error) {
      if (!isOver()) this.problem = messageOf(error);
    }
  }

  /** Throws what `Client.put` does. */
  async turn(enabled: boolean): Promise<void> {
    const now = await session.client.put<CaptureState>('/admin/capture', { enabled });
    this.#loads += 1; // what was asked for before may be older
    this.now = now;
  }
}
