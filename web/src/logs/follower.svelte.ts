import { messageOf, type Client, type StreamMessage } from '../api/client';
import { follow } from '../api/follow';
import type { ServiceLogLine } from '../api/types';
import { appended, MOST_LINES, type Chunk } from './chunks';
import type { LogItem } from './items';
import { harmless } from './sanitise';
import { Sequence } from './sequence';

const GATHERED = 80; // milliseconds: lines are drawn together, however many come

/** The log of the service, or of a model, as it grows; stays with it over breaks of the connection. */
export class Follower {
  state = $state<'connecting' | 'live' | 'lost' | 'failed'>('connecting');
  /** Why it can't be followed. */
  problem = $state<string | null>(null);
  /** There is no such model, or no more. */
  missing = $state(false);
  chunks = $state.raw<Chunk[]>([]);
  /** How many lines came since it was paused. */
  held = $state(0);
  paused = $state(false);

  readonly #client: Client;
  readonly #path: string;
  readonly #sequence: Sequence;
  #waiting: LogItem[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #end: (() => void) | null = null;

  /** `model` null: the log of the service, with a line for each request that was answered where `access` says so. */
  constructor(client: Client, model: string | null, access = true) {
    this.#client = client;
    if (model === null) {
      this.#path = `/admin/logs?follow=true&tail=1000${access ? '' : '&access=false'}`;
      // The lines that are left out are counted, too.
      this.#sequence = new Sequence('service', access);
    } else {
      this.#path = `/admin/models/${encodeURIComponent(model)}/logs?follow=true&tail=400`;
      this.#sequence = new Sequence('model');
    }
  }

  /** Follow until `stop`, or until the service says that there is nothing to follow. */
  start(): void {
    this.#end?.();
    this.#end = follow({
      client: this.#client,
      path: this.#path,
      opened: () => (this.state = 'live'),
      take: (message) => this.#take(message),
      lost: () => (this.state = 'lost'),
      refused: (error) => {
        if (error.status >= 500 || error.status === 429) return false;
        this.state = 'failed';
        this.problem = messageOf(error);
        this.missing = error.status === 404;
        return true;
      },
    });
  }

  stop(): void {
    this.#end?.();
    clearTimeout(this.#timer);
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
    this.missing = false;
    this.state = 'connecting';
    this.start();
  }

  get items(): LogItem[] {
    return this.chunks.flatMap(({ items }) => items);
  }

  /** How many lines are kept. */
  get lines(): number {
    return this.items.filter(({ kind }) => kind === 'line').length;
  }

  #take({ event, data }: StreamMessage): void {
    if (event === 'life' || event === 'run') {
      const { run, pid } = JSON.parse(data) as { run: string; pid?: number | null };
      this.#add(this.#sequence.run(run, pid));
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
}

function ofModel({ n, line }: { n: number; line: string }) {
  return { n, text: harmless(line), time: null, level: null, logger: null, request: null, model: null };
}

function ofService({ n, message, time, level, logger, request, model }: ServiceLogLine) {
  return { n, text: harmless(message), time, level, logger, request, model };
}
