import { session } from '../state/session.svelte';
import { answers } from './answers.svelte';
import { drafts } from './drafts.svelte';
import { presentOwner } from './owner';
import { undo } from './undo.svelte';

let watching = false;

/** From now on what was begun with a key ends with it: answers, drafts and what could be brought back. */
export function endWithKey(): void {
  if (watching) return;
  watching = true;
  $effect.root(() => {
    let present: string | undefined;
    $effect(() => {
      const { phase } = session;
      const owner = presentOwner();
      if (owner) {
        const next = JSON.stringify(owner);
        if (present !== undefined && present !== next) end();
        present = next;
      } else if (phase === 'signed-out') {
        answers.stopAll();
        // A key that was refused may have been replaced: what was typed waits for whoever signs in next.
        if (!session.hasKey) end();
      }
    });
  });
}

function end(): void {
  answers.stopAll();
  drafts.clear();
  undo.dismiss();
}
