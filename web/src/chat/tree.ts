import type { Message } from './types';

/** The turns of a conversation: a tree, as turns with the same parent are branches of each other. */
export type Messages = Record<string, Message>;

/** The turn of an id, if there is one; `constructor`, say, is in every object and no turn. */
export function turnOf(messages: Messages, id: string): Message | undefined {
  const message: Message | undefined = messages[id];
  return message?.id === id ? message : undefined;
}

/** The turns from the first to `leaf`. */
export function branch(messages: Messages, leaf: string | null): Message[] {
  const turns: Message[] = [];
  const seen = new Set<string>();
  for (let id = leaf; id !== null && !seen.has(id);) {
    const message: Message | undefined = turnOf(messages, id);
    if (!message) break;
    seen.add(id);
    turns.push(message);
    id = message.parent;
  }
  return turns.reverse();
}

/** The ids of the turns after each turn (null: of the first ones), oldest first. */
export function childrenOf(messages: Messages): Map<string | null, string[]> {
  const children = new Map<string | null, string[]>();
  for (const { id, parent } of Object.values(messages).sort(byAge)) {
    const others = children.get(parent);
    if (others) others.push(id);
    else children.set(parent, [id]);
  }
  return children;
}

/** The last turn of the newest branch that goes through a turn. */
export function newestLeaf(messages: Messages, id: string): string {
  const children = childrenOf(messages);
  let leaf = id;
  for (let next = children.get(leaf)?.at(-1); next !== undefined; next = children.get(leaf)?.at(-1)) leaf = next;
  return leaf;
}

/** A turn and all that follow it, on every branch. */
export function subtree(messages: Messages, id: string): string[] {
  const children = childrenOf(messages);
  const found = [id];
  for (let at = 0; at < found.length; at += 1) found.push(...(children.get(found[at]!) ?? []));
  return found;
}

/** The leaf to show once a turn and what follows it are gone: of a branch beside it, else the turn before it. */
export function leafWithout(messages: Messages, id: string): string | null {
  const message = turnOf(messages, id);
  if (!message) return null;
  const siblings = childrenOf(messages).get(message.parent) ?? [];
  const at = siblings.indexOf(id);
  const beside = siblings[at - 1] ?? siblings[at + 1];
  return beside === undefined ? message.parent : newestLeaf(messages, beside);
}

/** Those turns of which all that went before is there: else one tab has deleted that while another wrote them. */
export function rooted(turns: readonly Message[]): Message[] {
  const messages = new Map(turns.map((turn) => [turn.id, turn]));
  const children = childrenOf(Object.fromEntries(messages));
  const found = [...(children.get(null) ?? [])];
  for (let at = 0; at < found.length; at += 1) found.push(...(children.get(found[at]!) ?? []));
  return found.map((id) => messages.get(id)!);
}

function byAge(one: Message, other: Message): number {
  return one.at - other.at || (one.id < other.id ? -1 : 1);
}
