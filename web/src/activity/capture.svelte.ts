import { messageOf } from '../api/client';
import type { CaptureState } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';

/** Whether the service keeps bodies of requests and answers, and how many it has. */
export class Capture {
  now = $state.raw<CaptureState | null>(null);
  problem = $state('');

  /** Keep it up to date until the returned function is called. */
  follow(): () => void {
    void this.load();
    const load = (): void => void this.load();
    const ends = [
      feed.on('capture', load),
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
    try {
      const now = await client.get<CaptureState>('/admin/capture');
      if (client !== session.client) return;
      this.now = now;
      this.problem = '';
    } catch (error) {
      if (client === session.client) this.problem = messageOf(error);
    }
  }

  /** Throws what `Client.put` does. */
  async turn(enabled: boolean): Promise<void> {
    this.now = await session.client.put<CaptureState>('/admin/capture', { enabled });
  }
}
