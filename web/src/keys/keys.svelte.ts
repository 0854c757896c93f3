import { Resource } from '../api/resource.svelte';
import type { Key, NewKey } from '../api/types';
import { session } from '../state/session.svelte';
import type { KeyBody } from './key-form';

/** The keys of the service, oldest first. */
export class KeyList extends Resource<readonly Key[]> {
  constructor() {
    super(async (client, signal) => (await client.get<{ keys: Key[] }>('/admin/keys', signal)).keys);
  }

  create(body: KeyBody): Promise<NewKey> {
    return session.client.post<NewKey>('/admin/keys', body);
  }

  async change(id: string, changes: KeyBody): Promise<void> {
    await session.client.patch<Key>(`/admin/keys/${id}`, changes);
    await this.load();
  }

  /** `overlap`: seconds for which the old one is valid, too. */
  rotate(id: string, overlap: number): Promise<NewKey> {
    return session.client.post<NewKey>(`/admin/keys/${id}/rotate`, { overlap });
  }

  async revoke(id: string): Promise<void> {
    await session.client.delete<Key>(`/admin/keys/${id}`);
    await this.load();
  }
}
