import { isAbort, messageOf } from '../api/client';
import type { AdminModel } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { isSettled } from './memory';
import { outlooks, pathOf } from './outlooks.svelte';
import { outlook } from './words';

/** What is asked in the row before it is done. */
type Question = 'load' | 'personality' | 'unload';

/** What can be done to a model, the question that comes before, and what went wrong. */
export class ModelControl {
  question = $state<Question | null>(null);
  busy = $state(false);
  error = $state<string | null>(null);
  /** Of the load that is asked for; empty: none. */
  personality = $state('');

  #leave: AbortController | null = null;

  constructor(private readonly model: () => AdminModel) {}

  /** Load it; where others would go for that, or it can't be, ask first. */
  async pressLoad(): Promise<void> {
    await this.#do(async () => {
      const details = await outlooks.read(this.model().name);
      if (outlook(details).ask) this.question = 'load';
      else await this.#load();
    });
  }

  /** Ask for a personality to load it with, or no more. */
  pressPersonality(): void {
    this.question = this.question === 'personality' ? null : 'personality';
    this.personality = this.model().personality ?? '';
  }

  async load(): Promise<void> {
    await this.#do(() => this.#load());
  }

  /** Unload it; where somebody uses it, ask first. */
  async pressUnload(): Promise<void> {
    if (this.model().in_flight || this.model().waiting) this.question = 'unload';
    else await this.unload();
  }

  async unload(): Promise<void> {
    this.question = null;
    await this.#do(async () => {
      await session.client.post(`${pathOf(this.model().name)}/unload?wait=false`);
    });
  }

  async pin(pinned: boolean): Promise<void> {
    await this.#do(async () => {
      await session.client.post(`${pathOf(this.model().name)}/${pinned ? 'pin' : 'unpin'}`);
      await feed.refresh();
    });
  }

  /** To be told when the model has moved: from a beginning load on the feed tells the rest, and no connection is held. */
  moved(): void {
    if (!isSettled(this.model())) this.#leave?.abort();
  }

  async #load(): Promise<void> {
    this.question = null;
    // Waited for, because only this answer says that there is no room.
    this.#leave = new AbortController();
    const { signal } = this.#leave;
    const body = this.personality ? { personality: this.personality } : {};
    await session.client.post(`${pathOf(this.model().name)}/load`, body, signal);
  }

  async #do(work: () => Promise<void>): Promise<void> {
    this.busy = true;
    this.error = null;
    try {
      await work();
    } catch (error) {
      if (!isAbort(error)) this.error = messageOf(error);
    } finally {
      this.busy = false;
      this.#leave = null;
      outlooks.forget();
    }
  }
}
