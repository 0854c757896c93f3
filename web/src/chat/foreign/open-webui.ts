import { isFields, type Fields } from '../reading';
import {
  fromSeconds,
  milliseconds,
  objectsIn,
  textOr,
  type ForeignConversation,
  type ForeignTurn,
} from './conversation';

/** Thoughts stand in the text, in HTML of its own. */
const THOUGHTS = /^\s*<details type="reasoning"[^>]*>\s*(?:<summary>[^<]*<\/summary>)?([^]*?)<\/details>\s*/;

/** Chats that Open WebUI exported: `[{"chat": {"title", "history": {"messages": {id: turn}, "currentId"}}}]`. */
export function isOpenWebui(file: unknown): file is Fields[] {
  return Array.isArray(file) && file.length > 0 && file.every((one) => isFields(one) && historyOf(one) !== null);
}

export function fromOpenWebui(file: Fields[]): ForeignConversation[] {
  return file.map((one) => {
    const chat = one.chat as Fields;
    const history = historyOf(one)!;
    return {
      id: one.id ?? chat.id,
      title: chat.title ?? one.title,
      created: fromSeconds(one.created_at) ?? milliseconds(chat.timestamp),
      changed: fromSeconds(one.updated_at),
      system: chat.system ?? (isFields(chat.params) ? chat.params.system : undefined),
      turns: Object.entries(history.messages as Fields).flatMap(([id, turn]) =>
        isFields(turn) ? [turnOf(id, turn)] : [],
      ),
      leaf: history.currentId,
    };
  });
}

function historyOf({ chat }: Fields): Fields | null {
  const history = isFields(chat) ? chat.history : null;
  return isFields(history) && isFields(history.messages) ? history : null;
}

function turnOf(id: string, turn: Fields): ForeignTurn {
  const content = textOr(turn.content);
  const thoughts = turn.role === 'assistant' ? THOUGHTS.exec(content) : null;
  return {
    id,
    parent: typeof turn.parentId === 'string' ? turn.parentId : null,
    role: textOr(turn.role),
    text: thoughts ? content.slice(thoughts[0].length) : content,
    reasoning: thoughts ? decoded(thoughts[1]!).replace(/^> ?/gm, '').trim() : '',
    images: objectsIn(turn.files)
      .filter(({ type }) => type === 'image')
      .map(({ url }) => textOr(url)),
    at: fromSeconds(turn.timestamp),
    model: textOr(turn.modelName) || textOr(turn.model),
  };
}

/** Within that HTML its characters are escaped. */
function decoded(text: string): string {
  const meant: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', '#x27': "'", '#39': "'" };
  return text.replace(/&(lt|gt|amp|quot|#x27|#39);/g, (_, name: string) => meant[name]!);
}
