import type { Pull, PullRequest } from '../../api/types';
import { clock } from '../../state/clock.svelte';
import { feed } from '../../state/feed.svelte';
import { session } from '../../state/session.svelte';
import { Dismissed } from './dismissed.svelte';
import { hasEnded, isWhole, merged, requestOf, sorted } from './pulls';

/** The pulls of the service, whoever began them, and what this page knows of its own. */
export class Downloads {
  #read = $state.raw<Pull[]>([]);
  #dismissed = new Dismissed();
  /** What was asked for from here, whole. */
  #asked = new Map<string, PullRequest>();

  all = $derived(merged(this.#read, feed.pulls));
  shown = $derived(sorted(this.all, this.#dismissed.ids, this.all.some(hasEnded) ? clock.now : 0));

  /** Read those that have ended, too, now and whenever the feed begins anew. Returns what ends that. */
  follow(): () => void {
    void this.#refresh();
    const ends = [feed.on('snapshot', () => void this.#refresh()), this.#dismissed.follow()];
    return () => ends.forEach((end) => end());
  }

  /** Begin one. Throws as Client.fetch. */
  async begin(request: PullRequest): Promise<void> {
    const pull = await session.client.post<Pull>('/admin/models/pull', request);
    this.#asked.set(pull.id, request);
    this.#read = merged(this.#read, [pull]);
  }

  async cancel(pull: Pull): Promise<void> {
    const ended = await session.client.delete<Pull>(`/admin/pulls/${encodeURIComponent(pull.id)}`);
    this.#read = merged(this.#read, [ended]);
  }

  /** What was asked for; `whole`: nothing of it is missing. */
  request(pull: Pull): { request: PullRequest; whole: boolean } {
    const asked = this.#asked.get(pull.id);
    return { request: asked ?? requestOf(pull), whole: asked !== undefined || isWhole(pull) };
  }

  dismiss(pull: Pull): void {
    this.#dismissed.add(pull.id);
  }

  async #refresh(): Promise<void> {
    try {
      const { pulls } = await session.client.get<{ pulls: Pull[] }>('/admin/pulls');
      this.#read = pulls;
      this.#dismissed.prune([...pulls, ...feed.pulls]);
    } catch {
      // those that are under way come by the feed
    }
  }
}
