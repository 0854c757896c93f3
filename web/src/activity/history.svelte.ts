import { messageOf } from '../api/client';
import type { EndedRequest } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { emptyFilter, filtered } from './filter';
import { merged, MOST, renewed, withCaptures } from './pages';

const PAGE = 100;
const SHOW = 250; // milliseconds

/** The requests that have ended, newest first, and those that came while somebody reads. */
export class History {
  rows = $state.raw<EndedRequest[]>([]);
  /** New ones that are held back: what is read does not move. */
  fresh = $state.raw<EndedRequest[]>([]);
  state = $state<'loading' | 'ready' | 'failed'>('loading');
  /** There may be more than these. */
  more = $state(false);
  busy = $state(false);
  problem = $state('');
  filter = $state(emptyFilter());
  /** Those of the rows that the filter lets through. */
  shown = $derived(filtered(this.rows, this.filter));

  /** How many captures the service keeps. */
  keep = Infinity;

  #reading = false;
  #came: EndedRequest[] = [];
  #show: ReturnType<typeof setTimeout> | undefined;
  // Other tabs learn by it that the history was cleared, of which there is no event.
  #channel: BroadcastChannel | null = null;

  /** While it is so, new ones are held back. */
  set reading(reading: boolean) {
    this.#reading = reading;
    if (!reading && this.fresh.length) this.release();
  }

  /** Keep it up to date until the returned function is called. */
  follow(): () => void {
    this.rows = [];
    this.fresh = [];
    this.state = 'loading';
    this.#channel = new BroadcastChannel('llamaherd.history');
    this.#channel.onmessage = () => this.#forget();
    const ends = [
      feed.on<EndedRequest & { state: string }>('request', ({ state, ...request }) => {
        if (state === 'ended') this.#take(request);
      }),
      feed.on('snapshot', () => void this.load()),
      feed.on<{ enabled: boolean }>('capture', ({ enabled }) => {
        if (!enabled) this.#uncapture();
      }),
    ];
    void this.load();
    return () => {
      ends.forEach((end) => end());
      clearTimeout(this.#show);
      this.#show = undefined;
      this.#channel?.close();
      this.#channel = null;
    };
  }

  async load(): Promise<void> {
    const client = session.client;
    try {
      const page = await read();
      if (client !== session.client) return;
      const rows = renewed(merged(this.rows, this.fresh), page);
      this.more = rows.length === page.length ? page.length === PAGE : this.more;
      const top = this.#reading ? this.rows[0] : undefined;
      const at = rows.findIndex(({ n, id }) => n === top?.n && id === top.id);
      this.fresh = rows.slice(0, Math.max(0, at));
      this.rows = rows.slice(Math.max(0, at));
      this.state = 'ready';
    } catch (error) {
      if (client !== session.client || this.state === 'ready') return;
      this.state = 'failed';
      this.problem = messageOf(error);
    }
  }

  /** Read the page that follows. Throws what `Client.get` does. */
  async older(): Promise<void> {
    const last = this.rows.at(-1);
    if (!last || this.busy) return;
    const client = session.client;
    this.busy = true;
    try {
      const page = await read(last.n);
      if (client !== session.client || this.rows.at(-1) !== last) return;
      this.rows = merged(this.rows, page);
      this.more = page.length === PAGE;
    } finally {
      this.busy = false;
    }
  }

  /** Show those that were held back. */
  release(): void {
    const rows = merged(this.rows, this.fresh);
    this.more ||= rows.length > MOST;
    this.rows = withCaptures(rows.slice(0, MOST), this.keep);
    this.fresh = [];
  }

  /** Forget all, in the service too. Throws what `Client.delete` does. */
  async clear(): Promise<void> {
    await session.client.delete('/admin/requests/history');
    this.#channel?.postMessage('cleared');
    this.#forget();
  }

  #forget(): void {
    this.#came = [];
    this.fresh = [];
    this.rows = [];
    this.more = false;
    void this.load(); // some may have ended since
  }

  #uncapture(): void {
    const without = (request: EndedRequest): EndedRequest =>
      request.captured ? { ...request, captured: false } : request;
    this.rows = this.rows.map(without);
    this.fresh = this.fresh.map(without);
    this.#came = this.#came.map(without);
  }

  /** Many that end within a moment are one change of the page. */
  #take(request: EndedRequest): void {
    this.#came.push(request);
    this.#show ??= setTimeout(() => {
      this.#show = undefined;
      this.fresh = merged(this.fresh, this.#came).slice(0, MOST);
      this.#came = [];
      if (!this.#reading) this.release();
    }, SHOW);
  }
}

async function read(before?: number): Promise<EndedRequest[]> {
  const page = before === undefined ? '' : `&before=${before}`;
  const path = `/admin/requests/history?limit=${PAGE}${page}`;
  return (await session.client.get<{ requests: EndedRequest[] }>(path)).requests;
}
