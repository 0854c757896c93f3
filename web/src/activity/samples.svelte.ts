import { messageOf } from '../api/client';
import type { Sample } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { continued } from './series';

const MOST = 1440;
const PATH = `/admin/samples?limit=${MOST}`;

/** What the service looked at every few seconds, oldest first. */
export class Samples {
  list = $state.raw<Sample[]>([]);
  every = $state(5);
  state = $state<'loading' | 'ready' | 'failed'>('loading');
  problem = $state('');

  get last(): Sample | undefined {
    return this.list.at(-1);
  }

  /** How often they were asked for: only the last answer counts. */
  #loads = 0;

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
    const load = ++this.#loads;
    const before = this.last?.at ?? 0;
    const isOver = (): boolean => client !== session.client || load !== this.#loads;
    try {
      const { every, samples } = await client.get<{ every: number; samples: Sample[] }>(PATH);
      if (isOver()) return;
      const since = this.list.filter(({ at }) => at > before); // told of while these were on their way
      this.every = every;
      this.list = since.reduce((list, sample) => continued(list, sample, MOST), samples);
      this.state = 'ready';
    } catch (error) {
      if (isOver() || this.state === 'ready') return;
      this.state = 'failed';
      this.problem = messageOf(error);
    }
  }
}
