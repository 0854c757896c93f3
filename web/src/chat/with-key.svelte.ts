import { session } from '../state/session.svelte';
import { answers } from './answers.svelte';
import { drafts } from './drafts.svelte';
import { lastChat } from './last-chat.svelte';
import { presentOwner } from './owner';
import { undo } from './undo.svelte';

let watching = false;

/** From now on what was begun with a key ends with it: answers, what could be brought back, and drafts. */
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
      }
      if (phase !== 'signed-out') return;
      answers.stopAll();
      // A key that was refused may be replaced: what was typed waits for whoever signs in next.
      if (owner || session.hasKey) return;
      end();
      drafts.clear();
      lastChat.id = null;
      present = undefined;
    });
  });
}

function end(): void {
  answers.stopAll();
  undo.dismiss();
}
