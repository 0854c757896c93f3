import { ApiError, isAbort, messageOf, type Client, type StreamMessage } from '../api/client';
import type { ServiceLogLine } from '../api/types';
import { appended, MOST_LINES, type Chunk } from './chunks';
import type { LogItem } from './items';
import { harmless } from './sanitise';
import { Sequence } from './sequence';

const FIRST_PAUSE = 500; // milliseconds
const LONGEST_PAUSE = 10_000;
const GATHERED = 80; // milliseconds: lines are drawn together, however many come

/** The log of the service, or of a model, as it grows; stays with it over breaks of the connection. */
export class Follower {
  state = $state<'connecting' | 'live' | 'lost' | 'failed'>('connecting');
  /** Why it can't be followed. */
  problem = $state<string | null>(null);
  chunks = $state.raw<Chunk[]>([]);
  /** How many lines came since it was paused. */
  held = $state(0);
  paused = $state(false);

  readonly #client: Client;
  readonly #path: string;
  readonly #sequence = new Sequence();
  readonly #stop = new AbortController();
  #waiting: LogItem[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wake: (() => void) | null = null;

  /** `model` null: the log of the service. */
  constructor(client: Client, model: string | null) {
    this.#client = client;
    this.#path =
      model === null
        ? '/admin/logs?follow=true&tail=1000'
        : `/admin/models/${encodeURIComponent(model)}/logs?follow=true&tail=400`;
  }

  /** Follow until `stop`, or until the service says that there is nothing to follow. */
  start(): void {
    addEventListener('online', this.#now);
    document.addEventListener('visibilitychange', this.#now);
    void this.#follow();
  }

  stop(): void {
    this.#stop.abort();
    clearTimeout(this.#timer);
    removeEventListener('online', this.#now);
    document.removeEventListener('visibilitychange', this.#now);
  }

  pause(): void {
    this.#draw();
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#draw();
  }

  clear(): void {
    this.chunks = [];
    this.#waiting = [];
    this.held = 0;
  }

  /** Try again after a failure. */
  retry(): void {
    this.problem = null;
    this.state = 'connecting';
    void this.#follow();
  }

  get items(): LogItem[] {
    return this.chunks.flatMap(({ items }) => items);
  }

  /** How many lines are kept. */
  get lines(): number {
    return this.items.filter(({ kind }) => kind === 'line').length;
  }

  #now = (): void => this.#wake?.();

  async #follow(): Promise<void> {
    const signal = this.#stop.signal;
    let pause = FIRST_PAUSE;
    while (!signal.aborted) {
      try {
        this.#sequence.reconnected();
        for await (const message of this.#client.stream(this.#path, { signal })) {
          pause = FIRST_PAUSE;
          this.state = 'live';
          this.#take(message);
        }
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        if (error instanceof ApiError && error.status < 500 && error.status !== 429) {
          this.state = 'failed';
          this.problem = messageOf(error);
          return;
        }
      }
      if (signal.aborted) return;
      this.state = 'lost';
      await this.#sleep(pause * (0.75 + Math.random() / 2));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  #take({ event, data }: StreamMessage): void {
    if (event === 'life') {
      this.#add(this.#sequence.life((JSON.parse(data) as { pid: number | null }).pid));
    } else if (event === 'log') {
      const line = JSON.parse(data) as { n: number; line: string } | ServiceLogLine;
      this.#add(this.#sequence.line('line' in line ? ofModel(line) : ofService(line)));
    }
  }

  #add(items: LogItem[]): void {
    if (!items.length) return;
    this.#waiting.push(...items);
    if (this.#waiting.length > 2 * MOST_LINES) this.#waiting = this.#waiting.slice(-MOST_LINES);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (this.paused) this.held = Math.min(this.#waiting.length, MOST_LINES);
      else this.#draw();
    }, GATHERED);
  }

  #draw(): void {
    if (this.#waiting.length) this.chunks = appended(this.chunks, this.#waiting);
    this.#waiting = [];
    this.held = 0;
  }

  #sleep(milliseconds: number): Promise<void> {
    const signal = this.#stop.signal;
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#wake = null;
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#wake = done;
      signal.addEventListener('abort', done, { once: true });
    });
  }
}

function ofModel({ n, line }: { n: number; line: string }) {
  return { n, text: harmless(line), time: null, level: null, logger: null, request: null, model: null };
}

function ofService({ n, message, time, level, logger, request, model }: ServiceLogLine) {
  return { n, text: harmless(message), time, level, logger, request, model };
}
