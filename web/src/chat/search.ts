import type { Message } from './types';

export interface Hit {
  conversation: string;
  title: string;
  changed: number;
  /** The newest turn that has all the words; null: only the title has. */
  message: string | null;
  /** How many turns have them. */
  turns: number;
  /** The text about the first word, and that word; empty where only the title has them. */
  before: string;
  match: string;
  after: string;
}

/** A turn and the conversation that it is of. */
export interface Stored {
  conversation: string;
  message: Message;
}

const BEFORE = 32;
const AFTER = 90;

/** The conversations of which the title or a turn has all the words of a query, in the order of `heads`. */
export function find(
  query: string,
  heads: readonly { id: string; title: string; changed: number }[],
  stored: Iterable<Stored>,
): Hit[] {
  const words = fold(query).split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const found = new Map<string, Message[]>();
  for (const { conversation, message } of stored) {
    if (!has(message.text, words)) continue;
    const others = found.get(conversation);
    if (others) others.push(message);
    else found.set(conversation, [message]);
  }
  return heads.flatMap(({ id, title, changed }) => {
    const turns = found.get(id) ?? [];
    if (!turns.length && !has(title, words)) return [];
    const newest = turns.reduce<Message | null>((best, turn) => (best && best.at >= turn.at ? best : turn), null);
    const excerpt = newest ? excerptOf(newest.text, words[0]!) : { before: '', match: '', after: '' };
    return [{ conversation: id, title, changed, message: newest?.id ?? null, turns: turns.length, ...excerpt }];
  });
}

function has(text: string, words: readonly string[]): boolean {
  const folded = fold(text);
  return words.every((word) => folded.includes(word));
}

/** Small letters without accents. */
function fold(text: string): string {
  return text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();
}

function excerptOf(text: string, word: string): Pick<Hit, 'before' | 'match' | 'after'> {
  // Folding changes lengths: where each letter of the folded text comes from.
  const origins: number[] = [];
  let folded = '';
  let at = 0;
  for (const letter of text) {
    const parts = fold(letter);
    folded += parts;
    for (let part = 0; part < parts.length; part += 1) origins.push(at);
    at += letter.length;
  }
  origins.push(text.length);
  const start = folded.indexOf(word);
  if (start < 0) return { before: '', match: '', after: shorten(text.slice(0, AFTER)) };
  const from = origins[start]!;
  const to = Math.max(origins[start + word.length]!, from + 1);
  const begin = Math.max(0, from - BEFORE);
  const end = Math.min(text.length, to + AFTER);
  return {
    before: `${begin > 0 ? '…' : ''}${shorten(text.slice(begin, from))}`,
    match: text.slice(from, to),
    after: `${shorten(text.slice(to, end))}${end < text.length ? '…' : ''}`,
  };
}

function shorten(text: string): string {
  return text.replace(/\s+/g, ' ');
}
