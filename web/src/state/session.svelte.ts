import { ApiError, Client, Unreachable } from '../api/client';
import type { Caller, Scope } from '../api/types';

const BASE = 'llamaherd.base';
const KEY = 'llamaherd.key';

type Phase =
  /** Nothing is known yet. */
  | 'starting'
  /** An address or a key has to be entered. */
  | 'signed-out'
  | 'ready'
  /** The service does not answer; what was known stays on the page. */
  | 'unreachable';

/** Which service the page speaks to, with which key, and what that key may do. */
class Session {
  phase = $state<Phase>('starting');
  /** The address of the service; empty: the host of the page. */
  base = $state('');
  caller = $state.raw<Caller | null>(null);
  /** Why there is no way in, where something is wrong with the address or the key. */
  problem = $state<string | null>(null);
  /** The page came from the service itself; else its address must be known. */
  served = $state(true);
  client = $state.raw(new Client('', null));

  #key: string | null = null;
  #retry: ReturnType<typeof setTimeout> | undefined;

  get hasKey(): boolean {
    return this.#key !== null;
  }

  may(scope: Scope): boolean {
    return this.caller?.scopes.includes(scope) ?? false;
  }

  /** To be called once: finds the service and tries the key that was kept. */
  async start(): Promise<void> {
    window.addEventListener('storage', (event) => {
      // Another tab has signed in or out, or emptied everything.
      if (event.key === KEY || event.key === BASE || event.key === null) void this.#restore();
    });
    this.served = await isServed();
    await this.#restore();
  }

  /** Try an address and a key, and keep them where they are right. False: `problem` says why not. */
  async signIn(base: string, key: string): Promise<boolean> {
    const address = base.trim().replace(/\/+$/, '').replace(/\/v1$/, '');
    this.#use(address, key.trim() || null);
    await this.check();
    if (this.phase !== 'ready') {
      if (this.phase === 'unreachable') this.problem = unreachable(address);
      this.phase = 'signed-out';
      return false;
    }
    keep(BASE, address || null);
    keep(KEY, this.#key);
    return true;
  }

  /** Forget the key, here and in the other tabs. */
  signOut(): void {
    keep(KEY, null);
    this.#use(this.base, null);
    this.caller = null;
    this.problem = null;
    this.phase = 'signed-out';
  }

  /** Ask again what the key may do: after an answer that it was refused, or a time of no answers. */
  async check(): Promise<void> {
    clearTimeout(this.#retry);
    const client = this.client;
    try {
      const caller = await client.get<Caller>('/v1/key');
      if (client !== this.client) return;
      // The same again is no news: whoever reads it would begin anew.
      if (JSON.stringify(caller) !== JSON.stringify(this.caller)) this.caller = caller;
      this.problem = null;
      this.phase = 'ready';
    } catch (error) {
      if (client !== this.client) return;
      if (error instanceof Unreachable) {
        this.phase = 'unreachable';
        this.#retry = setTimeout(() => void this.check(), 2000);
      } else {
        this.caller = null;
        this.problem =
          this.#key || !(error instanceof ApiError && error.status === 401) ? (error as Error).message : null;
        this.phase = 'signed-out';
      }
    }
  }

  async #restore(): Promise<void> {
    const base = kept(BASE) ?? '';
    this.#use(base, kept(KEY));
    if (!base && !this.served) {
      this.phase = 'signed-out';
      return;
    }
    await this.check();
  }

  #use(base: string, key: string | null): void {
    clearTimeout(this.#retry);
    if (base !== this.base || key !== this.#key) this.caller = null;
    this.base = base;
    this.#key = key;
    this.client = new Client(base, key);
  }
}

/** Whether the host of this page is a llamaherd. */
async function isServed(): Promise<boolean> {
  try {
    const response = await fetch('/health', { cache: 'no-store' });
    return ((await response.json()) as { status?: unknown }).status === 'ok';
  } catch (error) {
    // A service that is down for a moment; a page from elsewhere would have answered something.
    return error instanceof TypeError;
  }
}

function unreachable(address: string): string {
  const allows = `and allows pages from ${location.origin} (setting cors.allowed_origins)`;
  return `No answer from ${address || location.origin}. Is it the right address, does it run, ${allows}?`;
}

// A browser may forbid to keep anything; then the page works until it is closed.
function kept(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function keep(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // as above
  }
}

export const session = new Session();
