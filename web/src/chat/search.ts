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

const BEFORE = 32;
const AFTER = 90;

interface Turn {
  message: Message;
  /** Its text as it is compared; null: nobody has looked for anything yet. */
  folded: string | null;
}

/** The texts of conversations, to be searched again and again. */
export class SearchIndex {
  #turns = new Map<string, { version: number; turns: Turn[] }>();

  /** Whether it has a conversation as it is now. */
  has(conversation: string, version: number): boolean {
    return this.#turns.get(conversation)?.version === version;
  }

  put(conversation: string, version: number, messages: readonly Message[]): void {
    this.#turns.set(conversation, { version, turns: messages.map((message) => ({ message, folded: null })) });
  }

  /**
   * The conversations of which the title or a turn has all the words of a query, in the order of `heads`; no more than
   * `most`, and how many there are. Yields often: with many long chats it takes a while.
   */
  *find(
    query: string,
    heads: readonly { id: string; title: string; changed: number }[],
    most: number,
  ): Generator<undefined, { hits: Hit[]; total: number }> {
    const words = fold(query).split(/\s+/).filter(Boolean);
    const hits: Hit[] = [];
    let total = 0;
    for (const { id, title, changed } of words.length ? heads : []) {
      const found: Message[] = [];
      for (const turn of this.#turns.get(id)?.turns ?? []) {
        turn.folded ??= fold(turn.message.text);
        if (has(turn.folded, words)) found.push(turn.message);
        yield;
      }
      if (!found.length && !has(fold(title), words)) continue;
      total += 1;
      if (hits.length === most) continue;
      const newest = found.reduce<Message | null>((best, turn) => (best && best.at >= turn.at ? best : turn), null);
      const excerpt = newest ? excerptOf(newest.text, words[0]!) : { before: '', match: '', after: '' };
      hits.push({ conversation: id, title, changed, message: newest?.id ?? null, turns: found.length, ...excerpt });
    }
    return { hits, total };
  }
}

function has(folded: string, words: readonly string[]): boolean {
  return words.every((word) => folded.includes(word));
}

/** Small letters without accents. */
function fold(text: string): string {
  if (/^[\0-\x7f]*$/.test(text)) return text.toLowerCase();
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
    // It can only be at the end of what is folded so far.
    if (folded.slice(-word.length - parts.length).includes(word)) break;
  }
  origins.push(at);
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
