import { follow } from '../api/follow';
import type { AdminModel, ModelLife, Pull, ReloadState } from '../api/types';
import { renewed } from './renewed';
import { session } from './session.svelte';

/** What the service is at one moment. */
export interface Snapshot {
  models: AdminModel[];
  requests: number;
  active: string | null;
  default: string | null;
  pulls: Pull[];
  capture: { enabled: boolean };
  /** The number of the newest request that has ended; 0: none is remembered. */
  history: { newest: number };
  reload: ReloadState;
}

type Data = Record<string, unknown>;
type Listener = (data: Data) => void;

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
  /** What was wrong with models.json, or another file, when they were read last: what was read before counts. */
  reloadError = $state<string | null>(null);

  #listeners = new Map<string, Set<Listener>>();
  #end: (() => void) | null = null;
  /** Questions for all models: how many were asked, and the last that was answered. */
  #asked = 0;
  #told = 0;
  /** The last answer did not come, and no later one. */
  #missed = false;
  /** What changed models since the first of the questions that are open. */
  #since: { asked: number; change: () => void }[] = [];

  model(name: string): AdminModel | undefined {
    return this.models.find((model) => model.name === name);
  }

  /** Hear of every event of a kind (docs/api.md); "snapshot" also when all has to be read anew. Returns what ends it. */
  on<T extends object = Data>(kind: string, listener: (data: T) => void): () => void {
    const listeners = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, listeners.add(listener as Listener));
    return () => listeners.delete(listener as Listener);
  }

  /** Follow the service of the session until `stop`, whatever breaks. What is known stays until it tells news. */
  start(): void {
    this.#end?.();
    this.#forgetQuestions();
    this.state = 'connecting';
    this.#end = follow({
      client: session.client,
      path: '/admin/events',
      opened: () => {
        if (this.#missed) void this.refresh();
        if (session.phase === 'unreachable') void session.check();
      },
      take: ({ event, data, comment }) => {
        this.state = 'live';
        if (comment === null) this.#take(event, JSON.parse(data) as Data);
      },
      lost: () => (this.state = 'lost'),
      refused: ({ status }) => {
        if (status !== 401 && status !== 403) return false;
        this.state = 'off';
        void session.check();
        return true;
      },
    });
  }

  /** Know nothing any more. */
  stop(): void {
    this.#end?.();
    this.#end = null;
    this.#forgetQuestions();
    this.state = 'off';
    this.models = [];
    this.pulls = [];
    this.active = null;
    this.default = null;
    this.requests = 0;
    this.reloadError = null;
  }

  #take(kind: string, data: Data): void {
    switch (kind) {
      case 'snapshot': {
        const snapshot = data as unknown as Snapshot;
        this.#forgetQuestions();
        this.models = renewed(this.models, snapshot.models);
        this.pulls = snapshot.pulls;
        this.active = snapshot.active;
        this.default = snapshot.default;
        this.requests = snapshot.requests;
        this.reloadError = snapshot.reload.error;
        break;
      }
      case 'model':
        this.#change(() => this.#changeModel(data as unknown as ModelLife));
        break;
      case 'active':
        this.active = data.active as string | null;
        this.default = data.default as string | null;
        this.#change(() => {
          for (const model of this.models) {
            model.active = model.name === this.active;
            model.default = model.name === this.default;
          }
        });
        break;
      case 'removed':
        this.#change(() => (this.models = this.models.filter((model) => model.name !== data.model)));
        break;
      case 'catalog':
        void this.refresh();
        break;
      case 'reloaded':
        this.reloadError = null;
        void this.refresh();
        break;
      case 'reload_failed':
        this.reloadError = data.message as string;
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
    const asked = ++this.#asked;
    try {
      const { models } = await session.client.get<{ models: AdminModel[] }>('/admin/models');
      if (!this.#isNews(asked)) return;
      this.models = renewed(this.models, models);
      // What events told meanwhile may be newer.
      for (const { change } of this.#since) change();
    } catch {
      // The feed itself is soon found broken, too, and may go on without a snapshot.
      if (this.#isNews(asked)) this.#missed = true;
    }
  }

  /** Whether no later answer, and no snapshot, was here before. */
  #isNews(asked: number): boolean {
    if (asked <= this.#told) return false;
    this.#told = asked;
    this.#missed = false;
    this.#since = this.#since.filter((one) => one.asked >= asked);
    return true;
  }

  /** Answers to what was asked so far do not count. */
  #forgetQuestions(): void {
    this.#told = this.#asked;
    this.#missed = false;
    this.#since = [];
  }

  /** Change models, and again in the answers to the questions that are open. */
  #change(change: () => void): void {
    if (this.#told < this.#asked) this.#since.push({ asked: this.#asked, change });
    change();
  }

  #changeModel(life: ModelLife): void {
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
