import { isFields, type Fields } from '../reading';
import { milliseconds, objectsIn, textOr, type ForeignConversation, type ForeignTurn } from './conversation';

/** Chats that the page of llama.cpp's server exported: `{"conv", "messages": [turn]}`, or a list of them. */
export function isLlamaCpp(file: unknown): file is Fields | Fields[] {
  const all: unknown[] = Array.isArray(file) ? file : [file];
  return all.length > 0 && all.every((one) => isFields(one) && isFields(one.conv) && Array.isArray(one.messages));
}

export function fromLlamaCpp(file: Fields | Fields[]): ForeignConversation[] {
  return (Array.isArray(file) ? file : [file]).map(({ conv, messages }) => {
    const { id, name, lastModified, currNode } = conv as Fields;
    const turns = objectsIn(messages).map(turnOf);
    return {
      id,
      title: name,
      created: turns.reduce<number | null>(
        (first, { at }) => (first === null || (at ?? first) < first ? at : first),
        null,
      ),
      changed: milliseconds(lastModified),
      turns,
      leaf: nameOf(currNode),
    };
  });
}

function turnOf(turn: Fields): ForeignTurn {
  const extra = objectsIn(turn.extra);
  return {
    id: nameOf(turn.id) ?? '',
    parent: nameOf(turn.parent),
    // What each tree of them begins with says nothing.
    role: turn.type === 'root' ? 'root' : textOr(turn.role),
    text: textOr(turn.content),
    reasoning: textOr(turn.reasoningContent) || textOr(turn.thinking),
    images: extra.map(({ base64Url }) => textOr(base64Url)).filter(Boolean),
    texts: extra
      .filter(({ type, content }) => typeof type === 'string' && /^(?:text|context)/i.test(type) && textOr(content))
      .map(({ name, content }) => ({ name: textOr(name) || 'File', text: textOr(content) })),
    at: milliseconds(turn.timestamp),
    model: textOr(turn.model),
  };
}

/** Ids were numbers in older ones. */
function nameOf(id: unknown): string | null {
  return typeof id === 'number' ? String(id) : textOr(id) || null;
}
