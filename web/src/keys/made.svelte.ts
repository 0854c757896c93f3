import type { NewKey } from '../api/types';
import { session } from '../state/session.svelte';

/** The key that was just made, until somebody says that it is copied. It outlives the page, which a sign-in draws anew. */
class Made {
  #key = $state.raw<NewKey | null>(null);
  #reader: string | null = null;
  /** What this browser does with it. */
  note = $state<string | null>(null);

  /** It is shown only to the key with this id: to nobody who signs in here later. */
  show(key: NewKey, reader: string | null): void {
    this.#key = key;
    this.#reader = reader;
    this.note = null;
  }

  get key(): NewKey | null {
    return this.#reader === (session.caller?.key?.id ?? null) ? this.#key : null;
  }

  forget(): void {
    this.#key = null;
    this.note = null;
  }
}

export const made = new Made();
