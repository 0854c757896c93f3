import type { Key } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';

/** What the keys are called. */
export class KeyNames {
  #names = $state.raw(new Map<string, string>());

  /** Keep them up to date until the returned function is called. */
  follow(): () => void {
    void this.load();
    const load = (): void => void this.load();
    const ends = [feed.on('key', load), feed.on('snapshot', load)];
    return () => ends.forEach((end) => end());
  }

  async load(): Promise<void> {
    const client = session.client;
    try {
      const { keys } = await client.get<{ keys: Key[] }>('/admin/keys');
      // One that was revoked is still the key of what it asked for.
      if (client === session.client)
        this.#names = new Map([...this.#names, ...keys.map(({ id, name }) => [id, name] as const)]);
    } catch {
      // ids will do
    }
  }

  /** Its name, else its id; null where there is no key. */
  of(id: string | null): string | null {
    return id === null ? null : (this.#names.get(id) ?? id);
  }
}
