import { Marked, type Token } from 'marked';

import { maskMath, mathExtensions } from './math';
import { mend } from './mend';

/** Longer texts are shown as they came: nobody reads them, and the page must not stand still. */
const LONGEST = 500_000;

const finished = parserOf(false);
const unfinished = parserOf(true);

function parserOf(open: boolean): Marked {
  return new Marked({
    gfm: true,
    breaks: true,
    // HTML of a model is text; only a break, which cells of tables need, is what it says.
    tokenizer: { html: () => undefined, tag: () => undefined },
    hooks: { emStrongMask: maskMath },
    extensions: [
      ...mathExtensions(open),
      {
        name: 'br',
        level: 'inline',
        start: (source) => {
          const at = source.search(/<br/i);
          return at < 0 ? undefined : at;
        },
        tokenizer: (source) => {
          const found = /^<br[ \t]*\/?>/i.exec(source);
          return found ? { type: 'br', raw: found[0] } : undefined;
        },
      },
    ],
  });
}

function plain(text: string): Token[] {
  return [{ type: 'plain', raw: text, text }];
}

function lex(text: string, streaming: boolean): { blocks: Token[]; links: boolean } {
  if (text.length > LONGEST) return { blocks: plain(text), links: false };
  try {
    const blocks = (streaming ? unfinished : finished).lexer(streaming ? mend(text) : text);
    return { blocks: [...blocks], links: Object.keys(blocks.links).length > 0 };
  } catch {
    return { blocks: plain(text), links: false }; // nested deeper than the stack is
  }
}

/** Reads a text that grows into blocks (paragraphs, lists, …). What can't change any more is read once. */
export class MarkdownReader {
  #text = '';
  #blocks: Token[] = [];
  /** Of #blocks, those before the last one; and the part of #text that they are. */
  #settled: Token[] = [];
  #length = 0;

  /** The blocks of the text. One that is as it was is the same object. */
  read(source: string, streaming: boolean): Token[] {
    const text = source.replace(/\r\n?/g, '\n');
    if (!streaming || !text.startsWith(this.#text)) {
      this.#settled = [];
      this.#length = 0;
    }
    const { blocks, links } = lex(text.slice(this.#length), streaming);
    const all = [...this.#settled, ...blocks];
    // A link may have got its address from a line further down.
    this.#blocks = links
      ? all
      : all.map((block, at) => (this.#blocks[at]?.raw === block.raw ? this.#blocks[at] : block));
    this.#text = text;
    if (streaming) this.#settle(blocks);
    return this.#blocks;
  }

  #settle(blocks: Token[]): void {
    let last = blocks.length - 1;
    while (last > 0 && blocks[last]?.type === 'space') last -= 1;
    for (const block of blocks.slice(0, Math.max(0, last))) {
      // Else a tokenizer has left something out, and where the next block begins is not known.
      if (!this.#text.startsWith(block.raw, this.#length)) return;
      this.#settled.push(block);
      this.#length += block.raw.length;
    }
  }
}
