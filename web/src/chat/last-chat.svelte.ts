import { href } from '../state/route.svelte';

/** The chat that this tab showed last. */
class LastChat {
  /** Null: a new one. */
  id = $state<string | null>(null);
  /** The way back to it. */
  readonly href = $derived(this.id === null ? href('chat') : href('chat', this.id));
}

export const lastChat = new LastChat();
