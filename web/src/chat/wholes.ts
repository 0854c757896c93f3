import type { Conversations } from './conversations.svelte';
import { problemOf } from './problem';
import type { Stored } from './storage';
import { rooted } from './tree';
import type { Conversation } from './types';

/** Whole conversations of some ids, as they are on the page, else as they are stored. */
export async function wholes(conversations: Conversations, ids: readonly string[]): Promise<Conversation[]> {
  const found: Conversation[] = [];
  for (const id of ids) {
    const open = conversations.whole(id);
    const head = conversations.head(id);
    if (open) found.push(open);
    else if (head) {
      const turns = rooted(await conversations.archive.storage.messages(id));
      found.push({ ...head, messages: Object.fromEntries(turns.map((turn) => [turn.id, turn])) });
    }
  }
  return found;
}

/** All that are listed, newest first. */
export async function allListed(conversations: Conversations): Promise<Conversation[]> {
  return wholes(
    conversations,
    conversations.heads.newestFirst.map(({ id }) => id),
  );
}

/** Those that are on this page only, in whole or in part. */
export async function unwritten(conversations: Conversations): Promise<Conversation[]> {
  const { kept, writer } = conversations.archive;
  return kept ? wholes(conversations, writer.unwritten()) : allListed(conversations);
}

/** Add some, all or none. Throws what the storage says. */
export async function addWholes(conversations: Conversations, whole: readonly Conversation[]): Promise<void> {
  const { archive, heads, tabs } = conversations;
  const owner = heads.owner() ?? undefined;
  const added = whole.map(({ messages: _, ...head }) => ({ owner, ...head }));
  const messages = whole.flatMap(({ id, messages }): Stored[] =>
    Object.values(messages).map((message) => ({ conversation: id, message })),
  );
  try {
    await archive.storage.write({ added, messages });
  } catch (error) {
    throw new Error(problemOf(error).text, { cause: error });
  }
  heads.take(added);
  const ids = added.map(({ id }) => id);
  heads.renewed(ids);
  tabs.tell('changed', { conversations: ids });
}
