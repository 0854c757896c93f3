import { SvelteMap } from 'svelte/reactivity';

import type { Messages } from './tree';

/** So many that were shown last are kept: a way back to them is quick, and images are large. */
const LAST = 5;

/** The turns of the conversations that were opened. */
export class OpenTurns {
  #messages = new SvelteMap<string, Messages>();
  /** What was shown last is at the end. */
  #shown: string[] = [];

  /** `isNeeded`: what a conversation has is not to be read elsewhere. */
  constructor(private readonly isNeeded: (conversation: string) => boolean) {}

  get(conversation: string): Messages | undefined {
    return this.#messages.get(conversation);
  }

  has(conversation: string): boolean {
    return this.#messages.has(conversation);
  }

  set(conversation: string, messages: Messages): void {
    // The page is told when they change.
    const watched = $state(messages);
    this.#messages.set(conversation, watched);
    this.show(conversation);
  }

  /** It is shown: those that were long before are let go of. */
  show(conversation: string): void {
    this.#shown = [...this.#shown.filter((one) => one !== conversation), conversation];
    for (const one of this.#shown.slice(0, -LAST)) if (!this.isNeeded(one)) this.delete(one);
  }

  delete(conversation: string): void {
    this.#shown = this.#shown.filter((one) => one !== conversation);
    this.#messages.delete(conversation);
  }
}
