import type { Token } from 'marked';
import { describe, expect, it } from 'vitest';

import { MarkdownReader } from './reader';
import { mend } from './mend';

/** Every formula in the text, display ones in [ ]. */
function formulas(text: string, streaming = false): string[] {
  const found: string[] = [];
  const look = (tokens: Token[]): void => {
    for (const token of tokens) {
      if (token.type === 'math') found.push(token.display ? `[${token.tex}]` : token.tex);
      if ('tokens' in token && token.tokens) look(token.tokens);
      if (token.type === 'list') for (const item of token.items) look(item.tokens);
      if (token.type === 'table') for (const cell of token.rows.flat()) look(cell.tokens);
    }
  };
  look(new MarkdownReader().read(text, streaming));
  return found;
}

describe('formulas', () => {
  it.each([
    ['$x$', ['x']],
    ['the $n$th of $k$-means', ['n', 'k']],
    ['**$a$** and *see $a*b$ there*', ['a', 'a*b']],
    ['$a_1$ and $b_1$', ['a_1', 'b_1']],
    ['\\(a_1\\) and \\[b\\]', ['a_1', '[b]']],
    ['$$x$$', ['[x]']],
    ['words $$x$$ words', ['[x]']],
    ['words\n$$\nx\n\n= y\n$$\nwords', ['[x\n\n= y]']],
    ['words:\n\\[\nx\n\\]\nwords', ['[x]']],
    ['- one\n\n  $$\n  x\n  $$\n- $y$', ['[x]', 'y']],
    ['| a |\n|---|\n| $x$ |', ['x']],
    ['$\\$5$', ['\\$5']],
    ['$5 and $6', []],
    ['from $5-$10, $20M to $30M, and US$5', []],
    ['\\$5 and 6\\$', []],
    ['`$x$` and ``\\(y\\)``', []],
    ['```\n$$x$$\n$y$\n```', []],
    ['    $x$', []],
    ['$ x $ and $$ $$', []],
    ['$x', []],
    ['$$x', []],
    ['\\(x', []],
    ['a $b\nc$ d', []],
    ['echo $HOME `a` $', []],
    ['set $HOME/$USER now', []],
    ['it is $5 and $10, or $5 to $10 for $x$', ['x']],
    ['$PATH:$HOME, ${A}/${B}', []],
    ['$50,000 or $60k', []],
    ['$ab$ and $f(x)$', ['ab', 'f(x)']],
  ])('%j has %j', (text, expected) => {
    expect(formulas(text)).toEqual(expected);
  });

  it.each([
    ['So $$\nx_1 * y', ['[x_1 * y]']],
    ['So\n$$\nx_1 * y_', ['[x_1 * y_]']],
    ['So \\(x_1', ['x_1']],
    ['it costs $5', []],
  ])('%j, with more to come, has %j', (text, expected) => {
    expect(formulas(text, true)).toEqual(expected);
  });
});

describe('the end of a text with more to come', () => {
  it.each([
    ['a\n-', 'a\n'],
    ['a\n\n1.', 'a\n\n'],
    ['1. a\n2', '1. a\n'],
    ['42', '42'],
    ['a\n``', 'a\n'],
    ['a\n```py', 'a\n'],
    ['a\n```py\n', 'a\n```py\n'],
    ['```\ncode\n``', '```\ncode\n'],
    ['```\na **b', '```\na **b'],
    ['a **b', 'a **b**'],
    ['a **', 'a **'],
    ['a `b', 'a `b`'],
    ['a `**` b', 'a `**` b'],
    ['a **b** c', 'a **b** c'],
    ['see [words](https://exa', 'see words'],
    ['see [words](https://example.com)', 'see [words](https://example.com)'],
    ['a\n\n**b', 'a\n\n**b**'],
  ])('%j reads as %j', (text, expected) => {
    expect(mend(text)).toBe(expected);
  });
});

describe('a text that grows', () => {
  const text =
    '# Title\n\nSome **bold** words\r\nand $x$.\n\n- one\n- two\n\n  more\n\n```js\nlet a = 1;\n\nlet b;\n```\n\n' +
    '| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n$$\n\\frac{1}{2}\n$$\n\n1. x\n\n2. y\n\n    code\n\nSee [it][1].\n\n[1]: https://a.example\n';

  it('ends as one that came at once', () => {
    const growing = new MarkdownReader();
    for (let length = 1; length <= text.length; length += 1) growing.read(text.slice(0, length), true);
    expect(growing.read(text, false)).toEqual(new MarkdownReader().read(text, false));
  });

  it('is at each step what all of it at once would be', () => {
    const growing = new MarkdownReader();
    for (let length = 1; length <= text.length; length += 1) {
      const part = text.slice(0, length);
      const all = (tokens: Token[]): [string, string][] => tokens.map(({ type, raw }) => [type, raw]);
      expect(all(growing.read(part, true))).toEqual(all(new MarkdownReader().read(part, true)));
    }
  });

  it('keeps the blocks that it had', () => {
    const reader = new MarkdownReader();
    const [first] = reader.read('one\n\ntw', true);
    expect(reader.read('one\n\ntwo\n\nthree', true)[0]).toBe(first);
    expect(reader.read('one\n\ntwo\n\nthree', false)[0]).toBe(first);
  });

  it('is read anew where it was changed', () => {
    const reader = new MarkdownReader();
    reader.read('one\n\ntwo\n\nthree', true);
    expect(reader.read('four\n\nfive', true).map(({ raw }) => raw)).toEqual(['four', '\n\n', 'five']);
  });
});

describe('a text that would keep marked busy', () => {
  const SIZE = 64_000;
  /** Milliseconds; hundreds of times what it takes, and less than it took without bounds. */
  const BOUND = 2_000;

  function takes(work: () => void): number {
    const start = performance.now();
    work();
    return performance.now() - start;
  }

  it.each([
    '[',
    '*a*',
    '_a',
    '`a` ``',
    '<',
    '<a ',
    '~a ',
    '![',
    '[a](',
    'a.',
    '$a ',
    '$$\n',
    '>',
    '- ',
    '> - ',
    '|',
    '- a\n',
  ])('of %j, over and over, is read in time', (unit) => {
    const text = unit.repeat(SIZE / unit.length) + '@';
    for (const streaming of [false, true]) {
      expect(takes(() => new MarkdownReader().read(text, streaming))).toBeLessThan(BOUND);
    }
  });

  it.each([
    ['list', '', '- Some *words* of a list, and `code`.\n'],
    ['table', '| a | b |\n|---|---|\n', '| some *words* | and `code` |\n'],
    ['quote', '', '> Some *words*, and `code`.\n'],
    ['code', '```js\n', 'let some = "words" + `and code`;\n'],
    ['paragraph', '', 'Some *words*, and `code`, and so on. '],
    ['line', '', '['.repeat(40)],
  ])(
    'that is one %s and grows is read in time, and ends as one that came at once',
    (_, head, unit) => {
      const text = head + unit.repeat(2_500);
      const growing = new MarkdownReader();
      const grow = (): void => {
        for (let length = 1; length < text.length; length += 60) growing.read(text.slice(0, length), true);
      };
      expect(takes(grow)).toBeLessThan(5 * BOUND);
      expect(growing.read(text, false)).toEqual(new MarkdownReader().read(text, false));
    },
    60_000,
  );

  it('is all there at each step', () => {
    const lines = Array.from({ length: 1200 }, (_, at) => `line ${at} of it`);
    for (const head of ['```js\n', '']) {
      const text = head + lines.map((line) => (head ? line : `- ${line}`)).join('\n');
      const growing = new MarkdownReader();
      for (let length = 7; length < text.length; length += 97) {
        const blocks = growing.read(text.slice(0, length), true);
        const shown = blocks
          .map((block) => ('text' in block && block.type === 'code' ? block.text : block.raw))
          .join('');
        expect((head + shown).length).toBeGreaterThan(length - 8);
      }
    }
  });
});
