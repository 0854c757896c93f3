/** Makes the end of a text that is still being written read as it will when more has come. */

/** Of a longer last line or paragraph nothing is mended. */
const LONGEST_LINE = 1_000;
const LONGEST_PARAGRAPH = 8_000;

// What the last line is may still change: a rule, a heading, a list, the end of a fence, the language of one.
const UNDECIDED = /^[ \t]*(?:[-=*+_#|>`~]+|\d{1,9}[.)]|(?:`{3,}|~{3,})[^\s`~]*)[ \t]*$/;
/** On the first line a number is a number. */
const UNDECIDED_BELOW = /^[ \t]*\d{1,2}[ \t]*$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;

export function mend(text: string): string {
  const start = text.lastIndexOf('\n') + 1;
  const line = text.slice(start, start + LONGEST_LINE + 1);
  const undecided = line.length <= LONGEST_LINE && (UNDECIDED.test(line) || (start > 0 && UNDECIDED_BELOW.test(line)));
  const decided = undecided ? text.slice(0, start) : text;
  return inFence(decided) ? decided : mendLastParagraph(decided);
}

/** Whether the text ends within fenced code. */
function inFence(text: string): boolean {
  let open: string | null = null;
  for (const line of text.split('\n')) {
    const mark = FENCE.exec(line.replace(/^(?:[ \t]|>|[-*+] |\d{1,9}[.)] )*/, ''))?.[1];
    if (!mark) continue;
    if (open === null) open = mark;
    else if (mark[0] === open[0] && mark.length >= open.length && line.trim().endsWith(mark)) open = null;
  }
  return open !== null;
}

function mendLastParagraph(text: string): string {
  const start = text.lastIndexOf('\n\n') + 1;
  if (text.length - start > LONGEST_PARAGRAPH) return text;
  const last = text
    .slice(start)
    // A link whose address is still coming is its words.
    .replace(/!?\[([^[\]\n]*)\]\([^()\s]*$/, '$1');
  const plain = last.replace(/(`+)[^`]*?\1(?!`)/g, '').replace(/\\[^]/g, '');
  let end = '';
  if (/(?<!`)`(?!`)/.test(plain)) end = '`';
  else if (odd(plain, /\*\*/g)) end = /\*\*\s*$/.test(plain) ? '' : '**';
  return text.slice(0, start) + (end ? last.trimEnd() + end : last);
}

function odd(text: string, form: RegExp): boolean {
  return (text.match(form)?.length ?? 0) % 2 === 1;
}
