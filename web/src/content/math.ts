import type { TokenizerExtension, Tokens } from 'marked';

import { paragraphEnd } from './bounds';

/** A formula in TeX. */
export interface MathToken extends Tokens.Generic {
  type: 'math';
  tex: string;
  /** It stands on a line of its own. */
  display: boolean;
  /** Its end has not come yet. */
  open: boolean;
}

/** Characters of TeX; what begins as a formula and is longer is none. */
const LONGEST = 8_000;

// A dollar opens before what is no blank and closes behind what is none, and no digit follows: "$5 and $6" are prices.
const DOLLAR = /^\$(?![\s$])((?:\\[^\n]|[^$\\\n`])+?)(?<!\s)\$(?!\d)/;
const DISPLAY = /^\$\$(?!\$)((?:\\[^]|[^$\\])+?)\$\$/;
const ROUND = /^\\\(((?:(?!\\\)|\n\n)[^])+?)\\\)/;
const SQUARE = /^\\\[((?:(?!\\\])[^])+?)\\\]/;
const ALONE = /^ {0,3}(\$\$(?!\$)|\\\[)/;
const ENDS = { $$: '$$', '\\[': '\\]' } as const;
const MASKED = /\$\$[^$]+?\$\$|\$(?![\s$])((?:\\[^\n]|[^$\\\n`])+?)(?<!\s)\$(?!\d)|\\\([^]+?\\\)/g;

function token(raw: string, tex: string, display: boolean, open = false): MathToken {
  return { type: 'math', raw, tex: tex.trim(), display, open };
}

/** Whether what is between two dollars is no formula but words: of prices, or of a shell, as in `$HOME/$USER`. */
function isWords(tex: string, next: string): boolean {
  if (/[\\^]/.test(tex)) return false;
  if (/\s[A-Za-z]{2,}\.?\s/.test(tex)) return true;
  // The second dollar begins a name as the first one does.
  return /[A-Za-z_{]/.test(next) && /^[A-Za-z_]{2}|^\{|[^\w)\]|'!]$/.test(tex);
}

function inlineMath(source: string): MathToken | undefined {
  if (!/^\$|^\\[([]/.test(source)) return undefined;
  for (const [form, display] of [
    [DISPLAY, true],
    [DOLLAR, false],
    [ROUND, false],
    [SQUARE, true],
  ] as const) {
    const found = form.exec(source);
    if (!found?.[1]?.trim()) continue;
    if (form === DOLLAR && isWords(found[1], source.charAt(found[0].length))) continue;
    return token(found[0], found[1], display);
  }
  return undefined;
}

/** A formula that begins a line, whose end may be lines away; an open one is taken to the end of the text. */
function blockMath(source: string, unfinished: boolean): MathToken | undefined {
  const head = ALONE.exec(source);
  if (!head) return undefined;
  const end = ENDS[head[1] as keyof typeof ENDS];
  const near = source.slice(0, LONGEST);
  const at = near.indexOf(end, head[0].length);
  if (at < 0) {
    const open = unfinished && near.length === source.length;
    return open ? token(source, source.slice(head[0].length), true, true) : undefined;
  }
  const rest = /^[ \t]*(?:\n|$)/.exec(source.slice(at + end.length));
  const tex = source.slice(head[0].length, at);
  // With words behind it, it is part of a paragraph.
  if (!rest || !tex.trim()) return undefined;
  return token(source.slice(0, at + end.length + rest[0].length), tex, true);
}

function unfinishedInline(source: string): MathToken | undefined {
  return /^(?:\\[([]|\$\$(?!\$))/.test(source) ? token(source, source.slice(2), source[1] !== '(', true) : undefined;
}

/** What marked needs to find $…$, $$…$$, \(…\) and \[…\]; with `unfinished` also those whose end is still to come. */
export function mathExtensions(unfinished: boolean): TokenizerExtension[] {
  return [
    {
      name: 'math',
      level: 'block',
      start: (source) => {
        // Behind the paragraph marked asks again.
        const at = source.slice(0, paragraphEnd(source) + 1).search(/\n {0,3}(?:\$\$|\\\[)/);
        return at < 0 ? undefined : at + 1;
      },
      tokenizer: (source) => blockMath(source, unfinished),
    },
    {
      name: 'math',
      level: 'inline',
      start: (source) => {
        const at = source.search(/\$|\\[([]/);
        return at < 0 ? undefined : at;
      },
      tokenizer: (source) => inlineMath(source) ?? (unfinished ? unfinishedInline(source) : undefined),
    },
  ];
}

/** The same text with every formula in it made of letters, so that no `*` or `_` of one is taken for emphasis. */
export function maskMath(source: string): string {
  return source.replace(MASKED, (formula: string, tex: string | undefined, at: number) =>
    tex !== undefined && isWords(tex, source.charAt(at + formula.length)) ? formula : 'a'.repeat(formula.length),
  );
}
