import { SvelteMap } from 'svelte/reactivity';

import type { AdminModelDetails } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';

const FRESH = 4000; // milliseconds

/** The address of a model under /admin; its name may have slashes. */
export function pathOf(name: string): string {
  return `/admin/models/${encodeURIComponent(name)}`;
}

/** What models are run with and what loading them would take, as it was a moment ago. */
class Outlooks {
  #known = new SvelteMap<string, AdminModelDetails>();
  /** Changes with whatever changes an outlook. */
  moves = $derived(feed.models.map(({ name, state, pinned }) => [name, state, pinned].join()).join());

  #read = new Map<string, { at: number; answer: Promise<AdminModelDetails> }>();

  /** The last answer, however old. */
  get(name: string): AdminModelDetails | undefined {
    return this.#known.get(name);
  }

  /** An answer of the last seconds; throws as Client.fetch. */
  read(name: string, fresh = FRESH): Promise<AdminModelDetails> {
    const known = this.#read.get(name);
    if (known && Date.now() - known.at < fresh) return known.answer;
    const answer = session.client.get<AdminModelDetails>(pathOf(name));
    const asked = { at: Date.now(), answer };
    this.#read.set(name, asked);
    answer.then(
      (details) => this.#read.get(name) === asked && this.#known.set(name, details),
      () => this.#read.get(name) === asked && this.#read.delete(name),
    );
    return answer;
  }

  /** Models have moved: what was answered holds no more. */
  forget(): void {
    this.#read.clear();
  }
}

export const outlooks = new Outlooks();
