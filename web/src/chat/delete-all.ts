import { conversations } from './conversations.svelte';
import { drafts } from './drafts.svelte';
import { removeAll } from './removal';
import { undo } from './undo.svelte';

/** Delete all chats and drafts from this browser, for good. Returns how many chats; throws where that can't be done. */
export async function deleteAllChats(): Promise<number> {
  drafts.clear();
  await conversations.start();
  const deleted = await removeAll(conversations);
  undo.dismiss();
  return deleted;
}
