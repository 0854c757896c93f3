import { newId } from './ids';
import type { Conversation } from './types';

/**
 * What of an import is to be added: all but what is there already to the letter. One of which the id is in `used`, or
 * there, gets another, so that nothing is overwritten.
 */
export function additions(
  imported: readonly Conversation[],
  there: readonly Conversation[],
  used: readonly string[] = [],
): Conversation[] {
  const taken = new Map<string, string | null>(used.map((id) => [id, null]));
  for (const conversation of there) taken.set(conversation.id, canonical({ ...conversation, owner: undefined }));
  const added: Conversation[] = [];
  for (const conversation of imported) {
    const written = canonical(conversation);
    if (taken.get(conversation.id) === written) continue;
    const one = taken.has(conversation.id) ? withNewIds(conversation) : conversation;
    taken.set(one.id, written);
    added.push(one);
  }
  return added;
}

function withNewIds(conversation: Conversation): Conversation {
  const ids = new Map(Object.keys(conversation.messages).map((id) => [id, newId()]));
  const renamed = (id: string): string => ids.get(id)!;
  const maybe = (id: string | null): string | null => (id === null ? null : renamed(id));
  const messages = Object.values(conversation.messages).map((message) => ({
    ...message,
    id: renamed(message.id),
    parent: maybe(message.parent),
  }));
  return {
    ...conversation,
    id: newId(),
    messages: Object.fromEntries(messages.map((message) => [message.id, message])),
    leaf: maybe(conversation.leaf),
    pair: conversation.pair && [renamed(conversation.pair[0]), renamed(conversation.pair[1])],
  };
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) =>
    part !== null && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([one], [other]) => (one < other ? -1 : 1)))
      : part,
  );
}
