import type { Conversations } from './conversations.svelte';
import { subtree, turnOf } from './tree';
import type { Message } from './types';
import { addWholes } from './wholes';

/** Take away a turn and all that follow it, and show `leaf`. Returns what puts them back. */
export function removeTurns(
  conversations: Conversations,
  conversation: string,
  id: string,
  leaf: string | null,
): () => Promise<void> {
  const messages = conversations.messages(conversation);
  const head = conversations.head(conversation);
  if (!messages || !head) return () => Promise.resolve();
  const gone = subtree(messages, id).map((one) => messages[one]!);
  for (const message of gone) conversations.take(conversation, message.id);
  const broken = head.pair?.some((one) => !turnOf(messages, one)) ?? false;
  conversations.change(conversation, { leaf, pair: broken ? null : head.pair });
  return async () => {
    const open = conversations.messages(conversation) !== undefined || (await conversations.open(conversation));
    if (!open) throw new Error('The chat was deleted.');
    // As they are now: an answer that was on its way has ended meanwhile.
    for (const message of gone) conversations.put(conversation, plain(message));
    conversations.change(conversation, { leaf: head.leaf, pair: head.pair });
  };
}

/** Delete a conversation, here, there and in the other tabs. Returns what puts it back. */
export async function removeConversation(conversations: Conversations, id: string): Promise<() => Promise<void>> {
  await conversations.open(id);
  const head = conversations.head(id);
  const turns = Object.values(conversations.messages(id) ?? {});
  await remove(conversations, [id]);
  return async () => {
    // As above.
    const messages = Object.fromEntries(turns.map((turn) => [turn.id, plain(turn)]));
    if (head) await addWholes(conversations, [{ ...head, messages }]);
  };
}

/** Delete all, those of other keys too, for good. Returns how many; throws where that can't be done. */
export async function removeAll(conversations: Conversations): Promise<number> {
  const { archive, heads } = conversations;
  if (!archive.kept) throw new Error('The chats that this browser stores can not be reached now.');
  const ids = heads.all.map(({ id }) => id);
  if (!(await remove(conversations, ids))) {
    throw new Error(archive.problem?.text ?? 'The chats could not be deleted.');
  }
  return ids.length;
}

function remove(conversations: Conversations, ids: string[]): Promise<boolean> {
  conversations.forget(ids);
  for (const id of ids) conversations.archive.writer.whole(id);
  return conversations.flush();
}

/** What the page watches, as plain data. Images are not copied. */
function plain(message: Message): Message {
  const { stats, images, ...rest } = message;
  return { ...rest, stats: stats && { ...stats }, images: images.map((image) => ({ ...image })) };
}
