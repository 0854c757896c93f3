import { ApiError, Client, messageOf, Unreachable } from '../api/client';
import { seen } from '../api/connection';
import { Pauses, rest } from '../api/pauses';
import type { Caller, Scope } from '../api/types';
import { addressOf } from './address';
import { clock } from './clock.svelte';
import { keep, kept } from './kept';

const BASE = 'llamaherd.base';
const KEY = 'llamaherd.key';
/** What is kept for whoever is signed in has a name that begins so: it is forgotten with the key. */
export const OF_KEY = 'llamaherd.of-key.';
const LIMIT = 12; // seconds: the answer to a wrong key is held back for up to eight

type Phase =
  /** Nothing is known yet. */
  | 'starting'
  /** An address or a key has to be entered. What was known stays (`caller`) where the key was refused. */
  | 'signed-out'
  | 'ready'
  /** The service does not answer; what was known stays on the page. */
  | 'unreachable';

/** Which service the page speaks to, with which key, and what that key may do. */
class Session {
  phase = $state<Phase>('starting');
  /** The address of the service; empty: the host of the page. */
  base = $state('');
  /** Null: nobody has come in yet, or somebody signed out, and what belonged to the key is to end. */
  caller = $state.raw<Caller | null>(null);
  /** Why there is no way in, where something is wrong with the address or the key. */
  problem = $state<string | null>(null);
  /** The page came from the service itself; else its address must be known. */
  served = $state(true);
  client = $state.raw(new Client('', null));

  #key: string | null = null;
  #checking: Promise<void> | null = null;
  #pauses = new Pauses();
  #retry = new AbortController();

  get hasKey(): boolean {
    return this.#key !== null;
  }

  may(scope: Scope): boolean {
    return this.caller?.scopes.includes(scope) ?? false;
  }

  /** To be called once: finds the service and tries the key that was kept. */
  async start(): Promise<void> {
    addEventListener('storage', ({ key }) => {
      // Another tab has signed in or out, or emptied everything.
      if (key === KEY || key === BASE || key === null) this.#follow();
    });
    // What happened while the browser kept the page aside was not told.
    addEventListener('pageshow', ({ persisted }) => persisted && this.#follow());
    this.#use(kept(BASE) ?? '', kept(KEY));
    this.served = await isServed();
    if (this.phase !== 'starting') return;
    if (this.base || this.served) await this.check();
    else this.phase = 'signed-out';
  }

  /**
   * Try an address and a key, and keep them where they are right. False: `problem` says why not, and nothing else has
   * changed.
   */
  async signIn(typed: string, key: string): Promise<boolean> {
    const { base, problem } = addressOf(typed, new URL(location.href), this.served);
    this.problem = problem;
    if (base === null) return false;
    const before = this.client;
    const client = this.#clientFor(base, key.trim() || null);
    try {
      const caller = await callerOf(client);
      if (this.client === before) {
        this.#use(base, key.trim() || null, client);
        this.#know(caller);
        keepBoth(base, this.#key);
      }
    } catch (error) {
      if (this.client === before) this.problem = wordsFor(error, base);
    }
    // Meanwhile another tab may have found a way in.
    return this.phase === 'ready' && this.client !== before;
  }

  /** Do not wait for the service any longer: ask for another address or key. What is kept stays until there is one. */
  ask(): void {
    this.#use(this.base, this.#key); // whatever the present client still hears does not count
    this.problem = null;
    this.phase = 'signed-out';
  }

  /** Forget the key, here and in the other tabs. */
  signOut(): void {
    keep(KEY, null);
    forgetOfKey();
    this.#end();
  }

  /** Ask again what the key may do: after an answer that it was refused, or a time of no answers. */
  check(): Promise<void> {
    if (this.#checking) return this.#checking;
    const checking = this.#check(this.client).finally(() => {
      if (this.#checking === checking) this.#checking = null;
    });
    return (this.#checking = checking);
  }

  async #check(client: Client): Promise<void> {
    this.#retry.abort();
    try {
      const caller = await callerOf(client);
      if (client === this.client) this.#know(caller);
    } catch (error) {
      if (client !== this.client) return;
      if (isRefusal(error)) {
        client.refuse(error);
        this.problem = this.#key === null && !this.caller ? null : error.message;
        this.phase = 'signed-out';
      } else if (this.caller || isAway(error)) {
        this.phase = 'unreachable';
        void this.#tryAgain();
      } else {
        this.problem = wordsFor(error, client.base);
        this.phase = 'signed-out';
      }
    }
  }

  async #tryAgain(): Promise<void> {
    const { signal } = (this.#retry = new AbortController());
    await rest(this.#pauses.next(), signal);
    await seen(signal);
    if (!signal.aborted) void this.check();
  }

  #know(caller: Caller): void {
    // The same again is no news: whoever reads it would begin anew.
    if (JSON.stringify(caller) !== JSON.stringify(this.caller)) this.caller = caller;
    this.#pauses.reset();
    this.problem = null;
    this.phase = 'ready';
  }

  /** Do as another tab did. */
  #follow(): void {
    const [base, key] = [kept(BASE) ?? '', kept(KEY)];
    if (base === this.base && key === this.#key) return;
    if (this.#key !== null && key === null) this.#end();
    if (base === this.base && key === this.#key) return;
    this.#use(base, key);
    if (base || this.served) void this.check();
  }

  #end(): void {
    this.#use(this.base, null);
    this.caller = null;
    this.problem = null;
    this.phase = 'signed-out';
  }

  #use(base: string, key: string | null, client = this.#clientFor(base, key)): void {
    this.#retry.abort();
    this.#checking = null;
    if (base !== this.base) {
      this.caller = null;
      clock.reset();
    }
    this.base = base;
    this.#key = key;
    this.client = client;
  }

  #clientFor(base: string, key: string | null): Client {
    const client: Client = new Client(base, key, {
      timed: (timed) => client === this.client && clock.heard(timed),
      unauthorized: () => client === this.client && void this.check(),
    });
    return client;
  }
}

/** What the key of a client may do. Throws as `json`; ApiError where something else than a llamaherd answers. */
async function callerOf(client: Client): Promise<Caller> {
  const caller = await client.json<Caller | null>('/v1/key', { limit: LIMIT });
  if (!Array.isArray(caller?.scopes)) throw new ApiError('That address does not answer as llamaherd does.', 200);
  return caller;
}

/** Whether the host of this page is a llamaherd. */
async function isServed(): Promise<boolean> {
  try {
    const response = await fetch('/health', { cache: 'no-store', signal: AbortSignal.timeout(LIMIT * 1000) });
    return ((await response.json()) as { status?: unknown }).status === 'ok';
  } catch (error) {
    // A service that is down for a moment; a page from elsewhere would have answered something.
    return !(error instanceof SyntaxError);
  }
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && (error.status === 401 || error.status === 403);
}

/** A service that is down, or whoever stands before it says so. */
function isAway(error: unknown): boolean {
  return error instanceof Unreachable || (error instanceof ApiError && error.status >= 500);
}

function wordsFor(error: unknown, base: string): string {
  const address = base || location.origin;
  if (error instanceof Unreachable) {
    const allows = `and allows pages from ${location.origin} (setting cors.allowed_origins)`;
    return `No answer from ${address}. Is it the right address, does it run, ${allows}?`;
  }
  if (error instanceof ApiError && (error.status === 404 || error.status < 400)) {
    return `Something answers at ${address}, but not as llamaherd does. Is it the right address?`;
  }
  return messageOf(error);
}

function forgetOfKey(): void {
  try {
    for (const name of Object.keys(localStorage)) if (name.startsWith(OF_KEY)) localStorage.removeItem(name);
  } catch {
    // a browser may forbid to keep anything
  }
}

/** In an order in which no other tab can read a key beside the address of another service. */
function keepBoth(base: string, key: string | null): void {
  if (base !== (kept(BASE) ?? '')) {
    keep(KEY, null);
    keep(BASE, base || null);
  }
  keep(KEY, key);
}

export const session = new Session();
