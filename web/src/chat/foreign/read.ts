import type { Conversation } from '../types';
import { fromChatGpt, isChatGpt } from './chatgpt';
import { conversationOf, type ForeignConversation } from './conversation';
import { fromLlamaCpp, isLlamaCpp } from './llama-cpp';
import { fromOpenWebui, isOpenWebui } from './open-webui';

/** The conversations in a file of another program; null: it is of none that is known. Throws BadImport. */
export function fromForeign(file: unknown): Conversation[] | null {
  const foreign = known(file);
  return foreign && foreign.map(conversationOf).filter((conversation) => conversation !== null);
}

function known(file: unknown): ForeignConversation[] | null {
  if (isOpenWebui(file)) return fromOpenWebui(file);
  if (isLlamaCpp(file)) return fromLlamaCpp(file);
  if (isChatGpt(file)) return fromChatGpt(file);
  return null;
}
