import { SvelteMap } from 'svelte/reactivity';

import type { AdminModelDetails } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';

const FRESH = 4000; // milliseconds

/** The address of a model under /admin; its name may have slashes. */
export function pathOf(name: string): string {
  return `/admin/models/${encodeURIComponent(name)}`;
}

interface Asked {
  at: number;
  /** As `Outlooks.moves` was then. */
  moves: string;
  answer: Promise<AdminModelDetails>;
}

/** What models are run with and what loading them would take, as it was a moment ago. */
class Outlooks {
  #known = new SvelteMap<string, AdminModelDetails>();
  /** Changes with whatever changes an outlook. */
  moves = $derived(feed.models.map(({ name, state, pinned }) => [name, state, pinned].join()).join());

  #asked = new Map<string, Asked>();

  /** The last answer, however old. */
  get(name: string): AdminModelDetails | undefined {
    return this.#known.get(name);
  }

  /** An answer of the last seconds, since which no model has moved; throws as Client.fetch. */
  read(name: string, fresh = FRESH): Promise<AdminModelDetails> {
    const last = this.#asked.get(name);
    if (last && last.moves === this.moves && Date.now() - last.at < fresh) return last.answer;
    const answer = session.client.get<AdminModelDetails>(pathOf(name));
    const asked = { at: Date.now(), moves: this.moves, answer };
    this.#asked.set(name, asked);
    answer.then(
      (details) => this.#asked.get(name) === asked && this.#known.set(name, details),
      () => this.#asked.get(name) === asked && this.#asked.delete(name),
    );
    return answer;
  }

  /** What was answered, and what is being, is old: whoever asks next gets a new answer. */
  forget(): void {
    for (const asked of this.#asked.values()) asked.at = -Infinity;
  }
}

export const outlooks = new Outlooks();
