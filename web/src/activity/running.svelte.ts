import { ApiError } from '../api/client';
import type { RunningRequest } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import type { LiveRequest } from './live';
import { Speed } from './speed';

type Event = Pick<RunningRequest, 'id' | 'model' | 'key' | 'route' | 'stream' | 'started'> & { state: string };

const PAUSE = 1000; // milliseconds from one look to the next
const SHOW = 200;

/** The requests that wait or run: asked for each second, but only while there are any and somebody can see them. */
export class Running {
  /** Oldest first. */
  list = $state.raw<LiveRequest[]>([]);
  /** They were read once. */
  ready = $state(false);

  #known = new Map<string, { request: RunningRequest; speed: Speed }>();
  /** Those that ended while the list was on its way here. */
  #ended = new Set<string>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #show: ReturnType<typeof setTimeout> | undefined;
  #asking = false;
  #stopped = true;

  /** Keep them up to date until the returned function is called. */
  follow(): () => void {
    this.#stopped = false;
    this.#known.clear();
    this.list = [];
    this.ready = false;
    const look = (): void => void this.#look();
    const ends = [feed.on<Event>('request', (event) => this.#take(event)), feed.on('snapshot', look)];
    document.addEventListener('visibilitychange', look);
    look();
    return () => {
      this.#stopped = true;
      ends.forEach((end) => end());
      document.removeEventListener('visibilitychange', look);
      clearTimeout(this.#timer);
      clearTimeout(this.#show);
      this.#show = undefined;
    };
  }

  /** How many requests of that id were ended by it; none where it has just ended by itself. */
  async cancel(id: string): Promise<number> {
    try {
      const path = `/admin/requests/${encodeURIComponent(id)}/cancel`;
      return (await session.client.post<{ cancelled: number }>(path)).cancelled;
    } catch (error) {
      if (error instanceof ApiError && error.code === 'request_not_found') return 0;
      throw error;
    }
  }

  #take(event: Event): void {
    const name = nameOf(event);
    if (event.state === 'started') {
      const { id, model, key, route, stream, started } = event;
      const request: RunningRequest = {
        ...{ id, model, key, route, stream, started },
        ...{ state: 'waiting', leased_at: null, first_byte_at: null, bytes: 0, tokens: 0 },
      };
      this.#known.set(name, { request, speed: new Speed() });
      this.#schedule();
    } else {
      this.#known.delete(name);
      if (this.#asking) this.#ended.add(name);
    }
    this.#showSoon();
  }

  #schedule(): void {
    if (this.#stopped || this.#asking) return;
    this.#timer ??= setTimeout(() => void this.#look(), PAUSE);
  }

  async #look(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#stopped || this.#asking || document.visibilityState === 'hidden') return;
    const client = session.client;
    this.#asking = true;
    this.#ended.clear();
    const known = new Set(this.#known.keys());
    try {
      const { requests } = await client.get<{ requests: RunningRequest[] }>('/admin/requests');
      if (!this.#stopped && client === session.client) this.#learn(requests, known);
    } catch {
      // the page says so as a whole where the service does not answer
    } finally {
      this.#asking = false;
    }
    if (this.#known.size) this.#schedule();
  }

  /** `before`: those that were known when they were asked for; what began since may be missing in the answer. */
  #learn(requests: RunningRequest[], before: ReadonlySet<string>): void {
    const now = performance.now();
    const there = new Set(requests.map(nameOf));
    for (const name of before) if (!there.has(name)) this.#known.delete(name);
    for (const request of requests) {
      const name = nameOf(request);
      if (this.#ended.has(name)) continue;
      const speed = this.#known.get(name)?.speed ?? new Speed();
      if (request.first_byte_at !== null) speed.note(now, request.tokens);
      this.#known.set(name, { request, speed });
    }
    this.ready = true;
    this.#showNow();
  }

  /** Many requests that begin and end within a moment are one change of the page. */
  #showSoon(): void {
    this.#show ??= setTimeout(() => this.#showNow(), SHOW);
  }

  #showNow(): void {
    clearTimeout(this.#show);
    this.#show = undefined;
    this.list = [...this.#known.values()]
      .map(({ request, speed }) => ({ ...request, speed: speed.value }))
      .sort((a, b) => a.started - b.started);
  }
}

/** Clients choose ids, and may do so twice. */
export function nameOf({ id, started }: Pick<RunningRequest, 'id' | 'started'>): string {
  return `${started} ${id}`;
}
