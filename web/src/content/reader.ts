import { Marked, type Token } from 'marked';

import { BoundedLexer, boundingExtensions } from './bounds';
import { maskMath, mathExtensions } from './math';
import { mend } from './mend';

/** Longer texts are shown as they came: nobody reads them, and the page must not stand still. */
const LONGEST = 500_000;
/** Characters of a block up to which it is read anew with each piece; a longer one whenever it has grown by a sixteenth. */
const SHORT = 16_000;
const GROWTH = 1 / 16;

const finished = parserOf(false);
const unfinished = parserOf(true);

function parserOf(open: boolean): Marked {
  return new Marked({
    gfm: true,
    breaks: true,
    // HTML of a model is text; only a break, which cells of tables need, is what it says.
    tokenizer: {
      html: () => undefined,
      tag: () => undefined,
      // One tilde is for what stands low, as in H~2~O.
      del: (source) => (source.startsWith('~~') ? false : undefined),
    },
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
      ...boundingExtensions, // marked asks the last one first
    ],
  });
}

function plain(text: string): Token[] {
  return [{ type: 'plain', raw: text, text }];
}

function lex(text: string, streaming: boolean): { blocks: Token[]; links: boolean } {
  if (text.length > LONGEST) return { blocks: plain(text), links: false };
  try {
    const parser = streaming ? unfinished : finished;
    const blocks = new BoundedLexer(parser.defaults).lex(streaming ? mend(text) : text);
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
  /** The part of the text, and its blocks, that were read with marked. */
  #read: { length: number; blocks: Token[] } = { length: 0, blocks: [] };

  /** The blocks of the text. One that is as it was is the same object. */
  read(source: string, streaming: boolean): Token[] {
    const text = source.replace(/\r\n?/g, '\n');
    const grown = streaming && text.startsWith(this.#text);
    if (!grown) {
      this.#settled = [];
      this.#length = 0;
    }
    this.#text = text;
    if (grown && this.#mayWait()) {
      return continued(this.#read.blocks, text.slice(this.#length), text.slice(this.#read.length));
    }
    const { blocks, links } = lex(text.slice(this.#length), streaming);
    const all = [...this.#settled, ...blocks];
    // A link may have got its address from a line further down.
    this.#blocks = links
      ? all
      : all.map((block, at) => (this.#blocks[at]?.raw === block.raw ? this.#blocks[at] : block));
    this.#read = { length: text.length, blocks: this.#blocks };
    if (streaming) this.#settle(blocks);
    return this.#blocks;
  }

  /** Whether the block at the end is so long, and has grown so little, that reading it anew would take too much time. */
  #mayWait(): boolean {
    const read = this.#read.length - this.#length;
    return read > SHORT && read < LONGEST && this.#text.length - this.#read.length < read * GROWTH;
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

const FENCE_BEGINS = /^(?:`{3,}|~{3,})[^\n]*\n/;
const FENCE_ENDS = /\n[ \t]*(?:`{3}|~{3})/;

/** The blocks with more behind them. Code goes on; behind anything else it is plain for now. */
function continued(blocks: Token[], tail: string, more: string): Token[] {
  const last = blocks.at(-1);
  const head = FENCE_BEGINS.exec(tail)?.[0];
  if (last?.type === 'code' && head && !FENCE_ENDS.test(tail)) {
    return [...blocks.slice(0, -1), { ...last, raw: tail, text: tail.slice(head.length) }];
  }
  return more === '' ? blocks : [...blocks, ...plain(more)];
}
