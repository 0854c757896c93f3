/** What the HTTP API takes and gives (docs/api.md). Times are seconds since the epoch, durations seconds, sizes bytes. */

export type ModelState = 'stopped' | 'starting' | 'ready' | 'draining' | 'stopping' | 'failed';
export type Devices = Record<string, number>;
export type Scope = 'inference' | 'admin';
export type Task = 'chat' | 'completion' | 'embedding' | 'rerank';

/** GET /v1/key: what the caller may do. */
export interface Caller {
  keys_required: boolean;
  scopes: Scope[];
  key: {
    id: string;
    name: string;
    models: string[] | null;
    requests_per_minute: number | null;
    tokens_per_day: number | null;
    at_once: number | null;
    expires: number | null;
  } | null;
  version: string;
}

/** GET /v1/models: one of `data`. */
export interface ServedModel {
  id: string;
  object: 'model';
  created: number;
  owned_by: string;
  root: string;
  backend: string;
  state: ModelState;
  aliases: string[];
  personalities: string[];
  profiles: string[];
  parent?: string | null;
  description?: string | null;
  unavailable?: string | null;
  context_length: number | null;
  input_modalities: ('text' | 'image')[];
  tasks: Task[];
}

export interface LoadError {
  message: string | null;
  code: string | null;
  exit_code: number | null;
  at: number;
  retry_at: number | null;
}

/** What event "model" has: the life of a model. */
export interface ModelLife {
  name: string;
  state: ModelState;
  since: number;
  personality: string | null;
  in_flight: number;
  waiting: number;
  yielding: boolean;
  progress: number | null;
  idle_since: number | null;
  device: string | null;
  memory: { expected: Devices; measured: Devices };
  load_seconds: number | null;
  loads: number;
  evictions: number;
  failures: number;
  last_error: LoadError | null;
  /** Its last life ended because the model `for` needed its place; null again with its next load. */
  evicted: { for: string; at: number } | null;
  pid: number | null;
}

/** In the snapshot of /admin/events: what was wrong with the files when they were read last; both null: nothing. */
export interface ReloadState {
  error: string | null;
  at: number | null;
}

/** GET /admin/models: one of `models`. */
export interface AdminModel extends ModelLife {
  aliases: string[];
  personalities: string[];
  profiles: Record<string, unknown>;
  request: Record<string, unknown> | null;
  description: string | null;
  engine: string | null;
  unavailable: string | null;
  default: boolean;
  active: boolean;
  pinned: boolean;
  preload: boolean;
  ttl: number | null;
  unloads_at: number | null;
}

/** `name` says what takes `size` bytes on `device`. */
export interface MemoryPart {
  name: string;
  device: string;
  /** Of `later` -1: without an end. */
  size: number;
}

/** GET /admin/models/{id}. A model that was removed has only what AdminModel has. */
export interface AdminModelDetails extends AdminModel {
  path?: string | null;
  mmproj?: string | null;
  template?: string | null;
  concurrency?: number | null;
  queue?: number | null;
  source?: string | null;
  params?: Record<string, unknown> | null;
  estimate?: {
    parts: MemoryPart[];
    devices: Devices;
    total: number;
    reclaimable: number;
    later: MemoryPart[];
  } | null;
  learnt?: Devices | null;
  needed?: Devices | null;
  placement?: string | null;
  room?: Devices | null;
  total?: Devices | null;
  /** null: it can't be loaded now. */
  would_evict?: string[] | null;
}

export type PullState = 'waiting' | 'resolving' | 'fetching' | 'done' | 'failed' | 'cancelled';

export interface PullError {
  message: string;
  code: string;
  param: string | null;
  /** What `quant` may be, where that has to be said. */
  choices: { quant: string; bytes: number | null }[];
}

/** GET /admin/pulls: one of `pulls`, and event "pull". */
export interface Pull {
  id: string;
  /** Without user, password and query, where it was an address with them. */
  source: string;
  quant: string | null;
  revision: string | null;
  /** The name that was asked for; null: that of the file. */
  name: string | null;
  /** Whether the projector for images is to come along, where there is one. */
  mmproj: boolean;
  state: PullState;
  created: number;
  ended: number | null;
  /** Of all its files, how much is there, of how much. */
  bytes: number;
  total: number | null;
  /** Bytes per second. */
  speed: number | null;
  files: { name: string; bytes: number | null; sha256: string | null }[];
  /** The name under which it is served now. */
  model: string | null;
  /** What holds it up; null while it goes on. */
  note: string | null;
  error: PullError | null;
}

/** POST /admin/models/pull. */
export interface PullRequest {
  source: string;
  quant?: string;
  revision?: string;
  name?: string;
  mmproj?: boolean;
}

/** GET /admin/requests: one of `requests`. */
export interface RunningRequest {
  id: string;
  model: string;
  key: string | null;
  route: string;
  stream: boolean;
  state: 'waiting' | 'running';
  started: number;
  leased_at: number | null;
  first_byte_at: number | null;
  bytes: number;
  tokens: number;
}

/** GET /admin/requests/history: one of `requests`. Durations are from `started`. */
export interface EndedRequest {
  n: number;
  id: string;
  /** null: it was refused, and named no model that there is. */
  model: string | null;
  key: string | null;
  route: string;
  stream: boolean;
  /** "ok", "left" (its client has), "cancelled", "upstream_status" (the engine's own error), or the code of its error. */
  outcome: string;
  started: number;
  waited: number | null;
  first_token: number | null;
  seconds: number;
  bytes: number;
  prompt_tokens: number | null;
  cached_tokens: number | null;
  completion_tokens: number | null;
  tokens_per_second: number | null;
  /** How long the engine read the prompt, without what was cached; null where it does not say. */
  prompt_seconds: number | null;
  captured: boolean;
}

export interface Captured {
  headers: Record<string, string>;
  body: string;
  size: number;
  truncated: boolean;
}

/** GET /admin/requests/history/{n}. */
export interface EndedRequestDetails extends EndedRequest {
  capture: {
    request: Captured & { method: string; path: string };
    /** `cut_off`: its connection ended before it was whole. `status` null: nothing was sent. */
    answer: Captured & { status: number | null; cut_off: boolean };
  } | null;
}

/** GET, PUT /admin/capture. `size`: the most bytes of a body, `keep`: the most requests. */
export interface CaptureState {
  enabled: boolean;
  captures: number;
  size: number;
  keep: number;
}

/** GET /admin/samples, and event "sample". */
export interface Sample {
  at: number;
  running: number;
  waiting: number;
  prompt_tokens_per_second: number;
  completion_tokens_per_second: number;
  requests: number;
  memory: Record<string, { models: number; used: number | null; total: number | null; room: number | null }>;
}

/** GET /admin/keys: one of `keys`. */
export interface Key {
  id: string;
  name: string;
  description: string;
  scopes: Scope[];
  created: number;
  expires: number | null;
  last_used: number | null;
  priority: number;
  models: string[] | null;
  requests_per_minute: number | null;
  tokens_per_day: number | null;
  at_once: number | null;
  former_until: number | null;
  /** It is the key that asks. */
  current: boolean;
  tokens_today: number;
}

/** The answer to POST /admin/keys and /admin/keys/{id}/rotate: the only ones with the key itself. */
export interface NewKey extends Key {
  key: string;
}

/** GET /admin/usage. */
export interface UsageReport {
  since: string;
  until: string;
  rows: (UsageCounts & { key?: string; name?: string | null; model?: string; day?: string; hour?: string })[];
  total: UsageCounts;
}

export interface UsageCounts {
  requests: number;
  errors: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
}

/** GET /admin/settings: one of `settings`. */
export interface Setting {
  name: string;
  section: string;
  value: unknown;
  default: unknown;
  source: string;
  description: string;
  secret: boolean;
}

/** GET, PUT /admin/models-file. */
export interface ModelsFile {
  path: string;
  text: string;
  version: string;
  writable: boolean;
}

/** POST /admin/models-file/check: one of `mistakes`; also in the error of PUT. */
export interface Mistake {
  message: string;
  line: number | null;
  column: number | null;
  path: string | null;
}

/** `event: log` of GET /admin/logs?follow=true. */
export interface ServiceLogLine {
  n: number;
  time: number;
  level: string;
  logger: string;
  message: string;
  request: string | null;
  model: string | null;
}
