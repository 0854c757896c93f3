import { createSubscriber } from 'svelte/reactivity';

import { ApiError, type Client } from '../api/client';
import type { ServedModel } from '../api/types';
import { feed } from './feed.svelte';
import { session } from './session.svelte';

const FIRST_PAUSE = 500; // milliseconds
const LONGEST_PAUSE = 10_000;
/** Between two readings of the list: the service tells of every step of a load. */
const SETTLES = 250;

/** The models that the key may use (GET /v1/models), kept fresh while something on the page shows them. */
class Served {
  #list = $state.raw<ServedModel[]>([]);
  #default = $state<string | null>(null);
  #loaded = $state(false);
  #error = $state.raw<unknown>(null);

  #client: Client | null = null;

  #subscribe = createSubscriber(() =>
    $effect.root(() => {
      $effect(() => this.#follow());
    }),
  );

  /** Each with the state that it has now. */
  readonly models = $derived.by(() => {
    this.#subscribe();
    const states = new Map(feed.state === 'live' ? feed.models.map(({ name, state }) => [name, state]) : []);
    return this.#list.map((model) => ({ ...model, state: states.get(model.parent ?? model.id) ?? model.state }));
  });

  /** Those that one can chat with. */
  readonly chat = $derived(this.models.filter((model) => model.tasks.includes('chat')));

  /** What a new conversation is with: the service's default, where one can chat with it. */
  readonly default = $derived.by(() => {
    const name = (feed.state === 'live' && feed.default) || this.#default;
    const usable = this.chat.filter((model) => !model.unavailable);
    return (usable.find(({ id }) => id === name) ?? usable[0] ?? this.chat[0])?.id ?? null;
  });

  /** Whether the list was read at all. */
  get loaded(): boolean {
    this.#subscribe();
    return this.#loaded;
  }

  /** Why it could not be read the last time; it is tried again. */
  get error(): unknown {
    this.#subscribe();
    return this.#error;
  }

  /** The model of a name: an id, an alias, or either with a personality (`model:personality`). */
  find(name: string): ServedModel | undefined {
    const named = (wanted: string): ServedModel | undefined =>
      this.models.find(({ id }) => id === wanted) ?? this.models.find(({ aliases }) => aliases.includes(wanted));
    const exact = named(name);
    if (exact) return exact;
    for (let at = name.indexOf(':'); at >= 0; at = name.indexOf(':', at + 1)) {
      const model = named(name.slice(0, at));
      if (model?.personalities.includes(name.slice(at + 1))) return model;
    }
    return undefined;
  }

  #follow(): (() => void) | undefined {
    const client = session.client;
    const admin = session.may('admin');
    if (!session.may('inference')) return undefined;
    if (client !== this.#client) {
      this.#client = client;
      this.#list = [];
      this.#default = null;
      this.#loaded = false;
    }
    const stop = new AbortController();
    const { signal } = stop;
    const reader = new Reader(() => this.#read(client, signal));
    if (admin) {
      const kinds = ['snapshot', 'catalog', 'reloaded', 'removed', 'key'];
      for (const kind of kinds)
        signal.addEventListener(
          'abort',
          feed.on(kind, () => reader.ask()),
        );
    } else {
      void this.#listen(client, signal, reader);
    }
    reader.ask();
    return () => {
      stop.abort();
      reader.stop();
    };
  }

  /** Read the list whenever the service says that something changed. For keys that may not follow the feed. */
  async #listen(client: Client, signal: AbortSignal, reader: Reader): Promise<void> {
    let pause = FIRST_PAUSE;
    while (!signal.aborted) {
      try {
        for await (const message of client.stream('/status', { signal })) {
          pause = FIRST_PAUSE;
          if (message.comment === null) reader.ask();
        }
      } catch (error) {
        if (isRefused(error)) return;
      }
      await sleep(pause * (0.75 + Math.random() / 2), signal);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  async #read(client: Client, signal: AbortSignal): Promise<void> {
    for (let pause = FIRST_PAUSE; !signal.aborted; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
      try {
        const [{ data }, { default_model }] = await Promise.all([
          client.get<{ data: ServedModel[] }>('/v1/models', signal),
          client.get<{ default_model?: string | null }>('/health', signal),
        ]);
        this.#list = data;
        this.#default = default_model ?? null;
        this.#loaded = true;
        this.#error = null;
        return;
      } catch (error) {
        if (signal.aborted) return;
        this.#error = error;
        if (isRefused(error)) {
          void session.check();
          return;
        }
      }
      await sleep(pause, signal);
    }
  }
}

/** Does something when asked, and once more where that was asked meanwhile. */
class Reader {
  #asked = false;
  #busy = false;
  #stopped = false;

  constructor(readonly read: () => Promise<void>) {}

  ask(): void {
    this.#asked = true;
    if (!this.#busy) void this.#work();
  }

  stop(): void {
    this.#stopped = true;
  }

  async #work(): Promise<void> {
    this.#busy = true;
    while (this.#asked && !this.#stopped) {
      this.#asked = false;
      await this.read();
      await new Promise((resolve) => setTimeout(resolve, SETTLES));
    }
    this.#busy = false;
  }
}

/** Ends early where trying again may help: the network is back, or somebody looks at the page again. */
function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      removeEventListener('online', done);
      document.removeEventListener('visibilitychange', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    addEventListener('online', done);
    document.addEventListener('visibilitychange', done);
    signal.addEventListener('abort', done);
  });
}

function isRefused(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 401 || error.status === 403);
}

export const served = new Served();
