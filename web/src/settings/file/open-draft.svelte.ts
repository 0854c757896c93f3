import { session } from '../../state/session.svelte';
import { Draft } from './draft.svelte';

/** The draft that this tab has open: it outlives the page that shows it, and the key with which it was begun. */
class OpenDraft {
  #draft = $state.raw<Draft | null>(null);
  #base: string | null = null;

  constructor() {
    $effect.root(() => {
      $effect(() => {
        if (!this.dirty) return;
        // The browser asks before it closes the tab. Where nothing would be lost, it may keep the page aside instead.
        const ask = (event: BeforeUnloadEvent): void => event.preventDefault();
        addEventListener('beforeunload', ask);
        return () => removeEventListener('beforeunload', ask);
      });
    });
  }

  /** Of the service that the page speaks to; what was begun for another one is dropped. */
  get(): Draft {
    if (!this.#draft || this.#base !== session.base) {
      this.#draft?.rest();
      this.#draft = new Draft(() => session.client);
      this.#base = session.base;
    }
    return this.#draft;
  }

  /** Whether something in it is not saved. */
  get dirty(): boolean {
    return this.#draft?.dirty ?? false;
  }
}

export const openDraft = new OpenDraft();
