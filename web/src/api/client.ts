import { createParser } from 'eventsource-parser';

import { limitOf } from './limits';

/** An error that the service told of, in any of its forms. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
    readonly param: string | null = null,
    /** Seconds after which trying again may help. */
    readonly retryAfter: number | null = null,
    /** Everything else that the error object has. */
    readonly details: Record<string, unknown> = {},
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

/** No answer came: the service is down, the network is, or the browser was not let (CORS, certificate). */
export class Unreachable extends Error {
  constructor(readonly url: string) {
    super('The service does not answer.');
    this.name = 'Unreachable';
  }
}

/** One event of a stream, or a comment (`event` and `data` are then empty). */
export interface StreamMessage {
  event: string;
  data: string;
  id: string | null;
  comment: string | null;
}

export interface Ask {
  method?: string;
  /** Sent as JSON. */
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** Of `json`: after how many seconds it is Unreachable; null: never. Unless it is said, what `limitOf` says. */
  limit?: number | null;
}

/** When a request was sent and its answer came, by this browser's clock, and `date`, by the service's. Milliseconds. */
export interface Timed {
  sent: number;
  date: number;
  came: number;
}

/** What a client tells of the answers that it gets. */
export interface Hearing {
  /** It had a date. */
  timed?: (timed: Timed) => void;
  /** The service does not take the key (401). */
  unauthorized?: () => void;
}

/** Speaks to one service. The key travels in a header, never in a URL. */
export class Client {
  #refusal: ApiError | null = null;

  /** `base` has no slash at its end; empty: the host that the page came from. */
  constructor(
    readonly base: string,
    private readonly key: string | null,
    private readonly hearing: Hearing = {},
  ) {}

  /** Its key is known to be no good: from now on every call fails with this, and none is sent, as each is a guess. */
  refuse(refusal: ApiError): void {
    this.#refusal = refusal;
  }

  url(path: string): string {
    return this.base + path;
  }

  /** The response, its status below 400. Throws ApiError, Unreachable, or AbortError where `signal` says so. */
  async fetch(path: string, ask: Ask = {}): Promise<Response> {
    if (this.#refusal) throw this.#refusal;
    const headers = new Headers(ask.headers);
    if (this.key) headers.set('Authorization', `Bearer ${this.key}`);
    if (ask.body !== undefined) headers.set('Content-Type', 'application/json');
    let response: Response;
    const sent = Date.now();
    try {
      response = await fetch(this.url(path), {
        method: ask.method ?? 'GET',
        headers,
        body: ask.body === undefined ? null : JSON.stringify(ask.body),
        signal: ask.signal ?? null,
        cache: 'no-store',
        credentials: 'omit',
        redirect: 'error',
        referrerPolicy: 'no-referrer',
      });
    } catch (error) {
      if (ask.signal?.aborted) throw error;
      throw new Unreachable(this.url(path));
    }
    const date = Date.parse(response.headers.get('Date') ?? '');
    if (!Number.isNaN(date)) this.hearing.timed?.({ sent, date, came: Date.now() });
    if (response.status === 401) this.hearing.unauthorized?.();
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  async json<T>(path: string, ask: Ask = {}): Promise<T> {
    const { limit = limitOf(path), signal } = ask;
    const stop = new AbortController();
    const leave = (): void => stop.abort(signal?.reason);
    signal?.addEventListener('abort', leave);
    if (signal?.aborted) leave();
    const timer = limit === null ? undefined : setTimeout(() => stop.abort(), limit * 1000);
    try {
      const response = await this.fetch(path, { ...ask, signal: stop.signal });
      return await bodyOf<T>(response);
    } catch (error) {
      if (signal?.aborted || error instanceof ApiError) throw error;
      throw new Unreachable(this.url(path));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', leave);
    }
  }

  get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return this.json<T>(path, { signal });
  }

  post<T>(path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
    return this.json<T>(path, { method: 'POST', body, signal });
  }

  put<T>(path: string, body: unknown): Promise<T> {
    return this.json<T>(path, { method: 'PUT', body });
  }

  patch<T>(path: string, body: unknown): Promise<T> {
    return this.json<T>(path, { method: 'PATCH', body });
  }

  delete<T>(path: string): Promise<T> {
    return this.json<T>(path, { method: 'DELETE' });
  }

  /** The events of an answer, as they come; ends with it. Throws as `fetch`; Unreachable where it breaks off. */
  async *stream(path: string, ask: Ask = {}): AsyncGenerator<StreamMessage, void, void> {
    const response = await this.fetch(path, { ...ask, headers: { Accept: 'text/event-stream', ...ask.headers } });
    yield* messagesOf(response, ask.signal);
  }
}

/** The events in the body of a response. */
export async function* messagesOf(response: Response, signal?: AbortSignal): AsyncGenerator<StreamMessage, void, void> {
  if (!response.body) return;
  const pending: StreamMessage[] = [];
  const parser = createParser({
    onEvent: ({ event, data, id }) => pending.push({ event: event ?? 'message', data, id: id ?? null, comment: null }),
    onComment: (comment) => pending.push({ event: '', data: '', id: null, comment: comment.trim() }),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parser.feed(value);
      while (pending.length) yield pending.shift()!;
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable(response.url);
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Whether an error means that somebody stopped what was going on. */
export function isAbort(error: unknown): boolean {
  return (error as { name?: unknown } | null)?.name === 'AbortError';
}

/** An error in a sentence for people. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** An error object of the service, as a body or the last event of a stream has it: `{"error": …}`. */
export function apiError(status: number, body: unknown, retryAfter: number | null = null): ApiError {
  const said = (body as { error?: unknown } | null)?.error;
  if (typeof said === 'string') return new ApiError(said, status, null, null, retryAfter);
  if (said !== null && typeof said === 'object') {
    const { message, code, param, type: _, ...details } = said as Record<string, unknown>;
    return new ApiError(
      typeof message === 'string' ? message : `The service answered ${status}.`,
      status,
      typeof code === 'string' ? code : null,
      typeof param === 'string' ? param : null,
      retryAfter,
      details,
    );
  }
  return new ApiError(`The service answered ${status}.`, status, null, null, retryAfter);
}

async function bodyOf<T>(response: Response): Promise<T> {
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error; // it broke off
    throw new ApiError('That address does not answer as llamaherd does.', response.status);
  }
}

async function errorOf(response: Response): Promise<ApiError> {
  const seconds = Number(response.headers.get('Retry-After') ?? NaN);
  const body: unknown = await response.json().catch(() => null);
  return apiError(response.status, body, Number.isFinite(seconds) ? seconds : null);
}
