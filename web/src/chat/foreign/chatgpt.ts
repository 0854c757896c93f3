import { isFields, type Fields } from '../reading';
import { fromSeconds, textOr, type ForeignConversation, type ForeignTurn } from './conversation';

/** The conversations.json of ChatGPT: `[{"title", "mapping": {id: {"message", "parent"}}, "current_node"}]`. */
export function isChatGpt(file: unknown): file is Fields[] {
  return Array.isArray(file) && file.length > 0 && file.every((one) => isFields(one) && isFields(one.mapping));
}

export function fromChatGpt(file: Fields[]): ForeignConversation[] {
  return file.map((one) => ({
    id: one.conversation_id ?? one.id,
    title: one.title,
    created: fromSeconds(one.create_time),
    changed: fromSeconds(one.update_time),
    turns: Object.entries(one.mapping as Fields).flatMap(([id, node]) => (isFields(node) ? [turnOf(id, node)] : [])),
    leaf: one.current_node,
  }));
}

function turnOf(id: string, { message, parent }: Fields): ForeignTurn {
  const { author, content, create_time: time, metadata } = isFields(message) ? message : {};
  const { content_type: kind, parts } = isFields(content) ? content : {};
  // What it writes to its tools, and thinks, is of other kinds.
  const said = kind === 'text' || kind === 'multimodal_text';
  return {
    id,
    parent: typeof parent === 'string' ? parent : null,
    role: isFields(author) && said ? textOr(author.role) : '',
    text: Array.isArray(parts) ? parts.filter((part) => typeof part === 'string').join('\n\n') : '',
    at: fromSeconds(time),
    model: isFields(metadata) ? textOr(metadata.model_slug) : '',
  };
}
