import type { Conversations } from './conversations.svelte';

/**
 * Have conversations of other keys and services as those of the present one: a key that was lost or revoked is often
 * followed by another of the same person. Throws where that can't be stored.
 */
export async function adopt(conversations: Conversations, ids: readonly string[]): Promise<void> {
  const { archive, heads } = conversations;
  const owner = heads.owner() ?? undefined;
  for (const id of ids) conversations.change(id, { owner });
  if (!(await conversations.flush())) throw new Error(archive.problem?.text ?? 'The chats could not be stored.');
}

/** Have all of them. Returns how many. */
export async function adoptAll(conversations: Conversations): Promise<number> {
  const ids = conversations.heads.unlisted.map(({ id }) => id);
  await adopt(conversations, ids);
  return ids.length;
}
