import { messageOf } from '../api/client';
import type { Key, NewKey } from '../api/types';
import { session } from '../state/session.svelte';
import type { KeyBody } from './key-form';

/** The keys of the service, oldest first. */
export class KeyList {
  /** Null: not known yet. */
  keys = $state.raw<Key[] | null>(null);
  problem = $state<string | null>(null);
  #asked = 0;

  /** Read all anew. Where that fails, what was known stays. */
  async load(): Promise<void> {
    const asked = ++this.#asked;
    try {
      const { keys } = await session.client.get<{ keys: Key[] }>('/admin/keys');
      if (asked !== this.#asked) return;
      this.keys = keys;
      this.problem = null;
    } catch (error) {
      if (asked === this.#asked) this.problem = messageOf(error);
    }
  }

  create(body: KeyBody): Promise<NewKey> {
    return session.client.post<NewKey>('/admin/keys', body);
  }

  async change(id: string, changes: KeyBody): Promise<void> {
    await session.client.patch<Key>(`/admin/keys/${id}`, changes);
    await this.load();
  }

  /** `overlap`: seconds for which the old one is valid, too. */
  async rotate(id: string, overlap: number): Promise<NewKey> {
    const made = await session.client.post<NewKey>(`/admin/keys/${id}/rotate`, { overlap });
    void this.load();
    return made;
  }

  async revoke(id: string): Promise<void> {
    await session.client.delete<Key>(`/admin/keys/${id}`);
    await this.load();
  }
}
