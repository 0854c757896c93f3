import type { Conversations } from './conversations.svelte';

/**
 * Have the conversations of other keys and services as those of the present one: a key that was lost or revoked is often
 * followed by another of the same person. Returns how many; throws where that can't be stored.
 */
export async function adoptAll(conversations: Conversations): Promise<number> {
  const { archive, heads } = conversations;
  const ids = heads.unlisted.map(({ id }) => id);
  const owner = heads.owner() ?? undefined;
  for (const id of ids) conversations.change(id, { owner });
  if (!(await conversations.flush())) throw new Error(archive.problem?.text ?? 'The chats could not be stored.');
  return ids.length;
}
