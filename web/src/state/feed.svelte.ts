import { ApiError, isAbort } from '../api/client';
import type { AdminModel, ModelLife, Pull } from '../api/types';
import { session } from './session.svelte';

interface Snapshot {
  models: AdminModel[];
  requests: number;
  active: string | null;
  default: string | null;
  pulls: Pull[];
}

type Data = Record<string, unknown>;
type Listener = (data: Data) => void;

const FIRST_PAUSE = 500; // milliseconds
const LONGEST_PAUSE = 10_000;

/** What happens in the service, live (GET /admin/events): only for a key with the scope admin. */
class Feed {
  /** `off`: nobody asked for it or the key may not; `lost`: it broke off and is tried again. */
  state = $state<'off' | 'connecting' | 'live' | 'lost'>('off');
  models = $state<AdminModel[]>([]);
  pulls = $state<Pull[]>([]);
  active = $state<string | null>(null);
  default = $state<string | null>(null);
  /** Inference requests that wait or run. */
  requests = $state(0);

  #listeners = new Map<string, Set<Listener>>();
  #stop: AbortController | null = null;
  #lastId: string | null = null;
  /** How many events "model" came. */
  #lives = 0;
  #wake: (() => void) | null = null;

  model(name: string): AdminModel | undefined {
    return this.models.find((model) => model.name === name);
  }

  /** Hear of every event of a kind (docs/api.md); "snapshot" also when all has to be read anew. Returns what ends it. */
  on<T extends object = Data>(kind: string, listener: (data: T) => void): () => void {
    const listeners = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, listeners.add(listener as Listener));
    return () => listeners.delete(listener as Listener);
  }

  /** Follow the service of the session until `stop`, whatever breaks. */
  start(): void {
    this.stop();
    this.#stop = new AbortController();
    void this.#follow(this.#stop.signal);
    addEventListener('online', this.#now);
    document.addEventListener('visibilitychange', this.#now);
  }

  stop(): void {
    this.#stop?.abort();
    this.#stop = null;
    this.#lastId = null;
    this.state = 'off';
    removeEventListener('online', this.#now);
    document.removeEventListener('visibilitychange', this.#now);
  }

  #now = (): void => this.#wake?.();

  async #follow(signal: AbortSignal): Promise<void> {
    let pause = FIRST_PAUSE;
    this.state = 'connecting';
    while (!signal.aborted) {
      try {
        const headers: Record<string, string> = this.#lastId ? { 'Last-Event-ID': this.#lastId } : {};
        for await (const message of session.client.stream('/admin/events', { headers, signal })) {
          if (signal.aborted) return;
          pause = FIRST_PAUSE;
          this.state = 'live';
          if (message.comment !== null) continue;
          if (message.id) this.#lastId = message.id;
          this.#take(message.event, JSON.parse(message.data) as Data);
        }
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
          this.state = 'off';
          void session.check();
          return;
        }
      }
      if (signal.aborted) return;
      this.state = 'lost';
      await this.#sleep(pause * (0.75 + Math.random() / 2), signal);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  #sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
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

  #take(kind: string, data: Data): void {
    switch (kind) {
      case 'snapshot': {
        const snapshot = data as unknown as Snapshot;
        this.models = snapshot.models;
        this.pulls = snapshot.pulls;
        this.active = snapshot.active;
        this.default = snapshot.default;
        this.requests = snapshot.requests;
        break;
      }
      case 'model':
        this.#changeModel(data as unknown as ModelLife);
        break;
      case 'active':
        this.active = data.active as string | null;
        this.default = data.default as string | null;
        for (const model of this.models) {
          model.active = model.name === this.active;
          model.default = model.name === this.default;
        }
        break;
      case 'removed':
        this.models = this.models.filter((model) => model.name !== data.model);
        break;
      case 'catalog':
      case 'reloaded':
        void this.refresh();
        break;
      case 'pull':
        this.#changePull(data as unknown as Pull);
        break;
      case 'request':
        if (data.state === 'started') this.requests += 1;
        if (data.state === 'ended') this.requests = Math.max(0, this.requests - 1);
        break;
    }
    for (const listener of this.#listeners.get(kind) ?? []) listener(data);
  }

  /** Read all models again: what an entry says is no event. */
  async refresh(): Promise<void> {
    try {
      const lives = this.#lives;
      const { models } = await session.client.get<{ models: AdminModel[] }>('/admin/models');
      if (lives === this.#lives) this.models = models;
      else void this.refresh(); // what an event told meanwhile may be newer
    } catch {
      // the feed itself is soon found broken, too
    }
  }

  #changeModel(life: ModelLife): void {
    this.#lives += 1;
    const model = this.model(life.name);
    if (!model) {
      void this.refresh();
      return;
    }
    const goes = !model.pinned && model.ttl !== null && life.idle_since !== null;
    Object.assign(model, life, { unloads_at: goes ? life.idle_since! + model.ttl! : null });
  }

  #changePull(pull: Pull): void {
    const at = this.pulls.findIndex((known) => known.id === pull.id);
    if (at < 0) this.pulls.push(pull);
    else this.pulls[at] = pull;
  }
}

export const feed = new Feed();
