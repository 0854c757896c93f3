import type { Key, NewKey } from '../api/types';
import { session } from '../state/session.svelte';

/** The key that was just made, until somebody says that it is copied. It outlives the page, which a sign-in draws anew. */
class Made {
  #key = $state.raw<NewKey | null>(null);
  #reader = $state<string | null>(null);
  /** Whether it was among the keys that there are. */
  #listed = false;
  /** What this browser does with it. */
  note = $state<string | null>(null);

  /** It is shown only to the key with this id: to nobody who signs in here later. */
  show(key: NewKey, reader: string | null, note: string | null = null): void {
    this.#key = key;
    this.#reader = reader;
    this.#listed = false;
    this.note = note;
  }

  get key(): NewKey | null {
    return this.#reader === (session.caller?.key?.id ?? null) ? this.#key : null;
  }

  /** These keys there are now: where it was among them and is no more, somebody has revoked it. */
  look(keys: readonly Pick<Key, 'id'>[]): void {
    if (!this.#key) return;
    if (keys.some(({ id }) => id === this.#key!.id)) this.#listed = true;
    else if (this.#listed) this.forget();
  }

  forget(): void {
    this.#key = null;
    this.note = null;
  }
}

export const made = new Made();
