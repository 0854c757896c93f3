import { isAbort, messageOf } from '../api/client';
import type { AdminModel } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { isLeaving, isSettled } from './memory';
import { outlooks, pathOf } from './outlooks.svelte';
import { outlook } from './words';

/** What is asked in the row before it is done. */
type Question = 'load' | 'personality' | 'unload';

/** What can be done to a model, the question that comes before, and what went wrong. */
export class ModelControl {
  question = $state<Question | null>(null);
  /** A load was asked for from here and has not begun. */
  waits = $state(false);
  error = $state<string | null>(null);

  #works = $state(0);
  #leave: AbortController | null = null;

  constructor(private readonly model: () => AdminModel) {}

  get busy(): boolean {
    return this.#works > 0;
  }

  /** Whether nothing is left to ask, because it was done elsewhere or can't be done any more. */
  get moot(): boolean {
    const model = this.model();
    switch (this.question) {
      case 'load':
        return !isSettled(model) || model.unavailable !== null;
      case 'personality':
        return isLeaving(model) || model.unavailable !== null || !model.personalities.length;
      case 'unload':
        return isSettled(model) || isLeaving(model);
      case null:
        return false;
    }
  }

  /** Load it; where others would go for that, or it can't be, ask first. */
  async pressLoad(): Promise<void> {
    await this.#do(async () => {
      const details = await outlooks.read(this.model().name);
      if (!isSettled(this.model())) return; // somebody else was first
      if (outlook(details, feed.models).ask) this.question = 'load';
      else await this.#load();
    });
  }

  /** Ask for a personality to load it with, or no more. */
  pressPersonality(): void {
    this.question = this.question === 'personality' ? null : 'personality';
  }

  /** Load it, with a personality where one is said. */
  async load(personality?: string): Promise<void> {
    await this.#do(() => this.#load(personality));
  }

  /** Take back a load that has not begun. */
  async stopWaiting(): Promise<void> {
    this.#leave?.abort();
    await this.unload();
  }

  /** Unload it; where somebody uses it, ask first. */
  async pressUnload(): Promise<void> {
    if (this.#used) await this.#do(() => feed.refresh()); // what is known of that may be seconds old
    if (this.#used) this.question = 'unload';
    else await this.unload();
  }

  get #used(): boolean {
    return this.model().in_flight + this.model().waiting > 0;
  }

  async unload(): Promise<void> {
    this.question = null;
    await this.#do(async () => {
      await session.client.post(`${pathOf(this.model().name)}/unload?wait=false`);
    });
  }

  /** Pin or unpin it, or another that is in its way. */
  async pin(pinned: boolean, name = this.model().name): Promise<void> {
    await this.#do(async () => {
      await session.client.post(`${pathOf(name)}/${pinned ? 'pin' : 'unpin'}`);
      await feed.refresh();
    });
  }

  /** To be told when the model has moved: from a beginning load on the feed tells the rest, and no connection is held. */
  moved(): void {
    if (!isSettled(this.model())) this.#leave?.abort();
  }

  async #load(personality?: string): Promise<void> {
    this.question = null;
    // Waited for, because only this answer says that there is no room.
    const leave = new AbortController();
    this.#leave = leave;
    this.waits = true;
    try {
      await session.client.post(`${pathOf(this.model().name)}/load`, personality ? { personality } : {}, leave.signal);
    } finally {
      if (this.#leave === leave) this.#leave = null;
      this.waits = this.#leave !== null;
    }
  }

  async #do(work: () => Promise<void>): Promise<void> {
    this.#works += 1;
    this.error = null;
    try {
      await work();
    } catch (error) {
      if (!isAbort(error)) this.error = messageOf(error);
    } finally {
      this.#works -= 1;
      outlooks.forget();
    }
  }
}
