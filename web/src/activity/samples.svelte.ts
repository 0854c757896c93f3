import { messageOf } from '../api/client';
import type { Sample } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { continued } from './series';

const MOST = 1440;

/** What the service looked at every few seconds, oldest first. */
export class Samples {
  list = $state.raw<Sample[]>([]);
  every = $state(5);
  state = $state<'loading' | 'ready' | 'failed'>('loading');
  problem = $state('');

  get last(): Sample | undefined {
    return this.list.at(-1);
  }

  /** Keep them up to date until the returned function is called. */
  follow(): () => void {
    this.list = [];
    this.state = 'loading';
    void this.load();
    const ends = [
      feed.on<Sample>('sample', (sample) => (this.list = continued(this.list, sample, MOST))),
      feed.on('snapshot', () => void this.load()),
    ];
    return () => ends.forEach((end) => end());
  }

  async load(): Promise<void> {
    const client = session.client;
    try {
      const { every, samples } = await client.get<{ every: number; samples: Sample[] }>('/admin/samples');
      if (client !== session.client) return;
      this.every = every;
      this.list = samples;
      this.state = 'ready';
    } catch (error) {
      if (client !== session.client || this.state === 'ready') return;
      this.state = 'failed';
      this.problem = messageOf(error);
    }
  }
}
