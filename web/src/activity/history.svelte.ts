import { messageOf } from '../api/client';
import type { EndedRequest } from '../api/types';
import { feed, type Snapshot } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import type { Span } from '../ui/chart';
import { emptyFilter, filtered } from './filter';
import { merged, MOST, nameOf, renewed, withCaptures } from './pages';
import { NEWEST, sorted, type Sort } from './sort';
import { endOf } from './span';

const PAGE = 100;
const LARGEST = 1000; // that the service gives
const SHOW = 250; // milliseconds

/** The requests that have ended, newest first, and those that came while somebody reads. */
export class History {
  rows = $state.raw<EndedRequest[]>([]);
  /** New ones that are held back: what is read does not move. */
  fresh = $state.raw<EndedRequest[]>([]);
  state = $state<'loading' | 'ready' | 'failed'>('loading');
  /** The service may have more than these. */
  more = $state(false);
  busy = $state(false);
  problem = $state('');
  filter = $state(emptyFilter());
  sort = $state.raw<Sort>(NEWEST);
  /** Those of the rows that the filter lets through, sorted. */
  shown = $derived(
    sorted(
      filtered(this.rows, this.filter, (id) => this.keyName(id)),
      this.sort,
    ),
  );
  /** As many of those that are held back fit it. */
  held = $derived(filtered(this.fresh, this.filter, (id) => this.keyName(id)).length);
  /** All that were read or told of. */
  known = $derived([...this.fresh, ...this.rows]);

  /** How many captures the service keeps. */
  keep = Infinity;

  #reading = false;
  #came: EndedRequest[] = [];
  #show: ReturnType<typeof setTimeout> | undefined;
  /** How often the newest page was asked for: only the last answer counts. */
  #loads = 0;
  #turning: Promise<void> | null = null;

  /** `keyName`: what a key is called. */
  constructor(private readonly keyName: (id: string | null) => string | null = (id) => id) {}

  /** While it is so, new ones are held back. */
  set reading(reading: boolean) {
    this.#reading = reading;
    if (!reading && this.fresh.length) this.release();
  }

  /** Keep it up to date until the returned function is called. */
  follow(): () => void {
    this.#empty();
    this.state = 'loading';
    const ends = [
      feed.on<EndedRequest & { state: string }>('request', ({ state, ...request }) => {
        if (state === 'ended') this.#take(request);
      }),
      feed.on<Snapshot>('snapshot', ({ capture, history }) => {
        if (!capture.enabled) this.#uncapture();
        void this.load(history.newest);
      }),
      feed.on<{ enabled: boolean }>('capture', ({ enabled }) => {
        if (!enabled) this.#uncapture();
      }),
      feed.on('history', () => {
        this.#empty();
        void this.load(); // an answer that is on its way may still have what is forgotten
      }),
    ];
    void this.load();
    return () => {
      ends.forEach((end) => end());
      clearTimeout(this.#show);
      this.#show = undefined;
    };
  }

  /** Read the newest page; where the number of the `newest` one is known, all that was missed. */
  async load(newest = 0): Promise<void> {
    const client = session.client;
    const load = ++this.#loads;
    this.#fold();
    const before = new Set(this.known.map(nameOf));
    const isBefore = (request: EndedRequest): boolean => before.has(nameOf(request));
    const missed = newest - (this.known[0]?.n ?? newest);
    const limit = Math.min(LARGEST, Math.max(PAGE, missed + 1));
    const isOver = (): boolean => client !== session.client || load !== this.#loads;
    try {
      const page = await read(limit);
      if (isOver()) return;
      const rows = renewed(this.known.filter(isBefore), page);
      this.more = rows.length === page.length ? page.length === limit : this.more;
      const since = this.known.filter((request) => !isBefore(request)); // told of while the page was on its way
      this.#place(merged(rows, since));
      this.state = 'ready';
    } catch (error) {
      if (isOver() || this.state === 'ready') return;
      this.state = 'failed';
      this.problem = messageOf(error);
    }
  }

  /** Read the page that follows. Throws what `Client.get` does. */
  older(): Promise<void> {
    this.#turning ??= this.#readOlder().finally(() => (this.#turning = null));
    return this.#turning;
  }

  async #readOlder(): Promise<void> {
    const last = this.rows.at(-1);
    if (!last) return;
    const client = session.client;
    this.busy = true;
    try {
      const page = await read(PAGE, last.n);
      if (client !== session.client || this.rows.at(-1) !== last) return;
      this.rows = merged(this.rows, page);
      this.more = page.length === PAGE;
    } finally {
      this.busy = false;
    }
  }

  /** Show only what was there at that time, and read as far back as that reaches. Throws what `Client.get` does. */
  async choose(span: Span): Promise<void> {
    this.filter.span = span;
    // What a state holds is not the same object.
    const isWanted = (): boolean => this.filter.span?.[0] === span[0] && this.filter.span[1] === span[1];
    while (isWanted() && this.more && this.rows.length && this.rows.length < MOST) {
      if (endOf(this.rows.at(-1)!) < span[0]) return; // who ended first was told of first
      await this.older();
    }
  }

  /** Show those that were held back. */
  release(): void {
    const rows = merged(this.rows, this.fresh);
    this.more ||= rows.length > MOST;
    this.rows = withCaptures(rows.slice(0, MOST), this.keep);
    this.fresh = [];
  }

  /** Make the service forget all. Throws what `Client.delete` does. */
  async clear(): Promise<void> {
    await session.client.delete('/admin/requests/history');
    await this.load(); // the feed tells of it, unless it is broken
  }

  #empty(): void {
    this.#reading = false; // there is nothing to read
    this.#came = [];
    this.fresh = [];
    this.rows = [];
    this.more = false;
  }

  /** The rows that somebody reads stay where they are. */
  #place(rows: EndedRequest[]): void {
    const top = this.#reading ? this.rows[0] : undefined;
    const at = Math.max(
      0,
      rows.findIndex(({ n, id }) => n === top?.n && id === top.id),
    );
    this.fresh = rows.slice(0, at);
    this.rows = rows.slice(at);
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
      this.#fold();
      if (!this.#reading) this.release();
    }, SHOW);
  }

  #fold(): void {
    if (!this.#came.length) return;
    this.fresh = merged(this.fresh, this.#came).slice(0, MOST);
    this.#came = [];
  }
}

async function read(limit: number, before?: number): Promise<EndedRequest[]> {
  const page = before === undefined ? '' : `&before=${before}`;
  const path = `/admin/requests/history?limit=${limit}${page}`;
  return (await session.client.get<{ requests: EndedRequest[] }>(path)).requests;
}
