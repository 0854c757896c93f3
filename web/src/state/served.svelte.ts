import { createSubscriber } from 'svelte/reactivity';

import { ApiError, type Client } from '../api/client';
import { follow } from '../api/follow';
import { Pauses, rest } from '../api/pauses';
import type { ServedModel } from '../api/types';
import { feed } from './feed.svelte';
import { session } from './session.svelte';

/** Between two readings of the list, in milliseconds: the service tells of every step of a load. */
const SETTLES = 250;

/** The models that the key may use (GET /v1/models), kept fresh while something on the page shows them. */
class Served {
  #list = $state.raw<ServedModel[]>([]);
  #default = $state<string | null>(null);
  #loaded = $state(false);
  #error = $state.raw<unknown>(null);

  /** The service and the key that the list is of. */
  #owner: string | null = null;

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
    const owner = `${client.base} ${session.caller?.key?.id ?? ''}`;
    if (owner !== this.#owner) {
      this.#owner = owner;
      this.#list = [];
      this.#default = null;
      this.#loaded = false;
    }
    const stop = new AbortController();
    const reader = new Reader(() => this.#read(client, stop.signal));
    const ask = (): void => reader.ask();
    const ends = admin
      ? ['snapshot', 'catalog', 'reloaded', 'removed', 'key'].map((kind) => feed.on(kind, ask))
      : [listen(client, ask)];
    ask();
    return () => {
      for (const end of ends) end();
      stop.abort();
      reader.stop();
    };
  }

  async #read(client: Client, signal: AbortSignal): Promise<void> {
    const pauses = new Pauses();
    while (!signal.aborted) {
      try {
        const [{ data }, { default_model }] = await Promise.all([
          client.get<{ data: ServedModel[] }>('/v1/models', signal),
          client.get<{ default_model?: string | null }>('/health', signal),
        ]);
        if (signal.aborted) return;
        this.#list = data;
        this.#default = default_model ?? null;
        this.#loaded = true;
        this.#error = null;
        pauses.reset();
        return;
      } catch (error) {
        if (signal.aborted) return;
        this.#error = error;
        if (isRefused(error)) {
          void session.check();
          return;
        }
      }
      await rest(pauses.next(), signal);
    }
  }
}

/** Hear that something changed, with a key that may not follow the feed. Returns what ends it. */
function listen(client: Client, changed: () => void): () => void {
  return follow({
    client,
    path: '/status',
    opened: () => {
      if (session.phase === 'unreachable') void session.check();
    },
    take: ({ comment }) => {
      if (comment === null) changed();
    },
    lost: () => void session.check(),
    refused: (error) => isRefused(error) && (void session.check(), true),
  });
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

function isRefused(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 401 || error.status === 403);
}

export const served = new Served();
