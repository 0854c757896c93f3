/** Makes the end of a text that is still being written read as it will when more has come. */

// What the last line is may still change: a rule, a heading, a list, the end of a fence, the language of one.
const UNDECIDED = /(^|\n)[ \t]*(?:[-=*+_#|>`~]+|\d{1,9}[.)]|(?<=\n[ \t]*)\d{1,2}|(?:`{3,}|~{3,})[^\s`~]*)[ \t]*$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;

export function mend(text: string): string {
  const decided = text.replace(UNDECIDED, '$1');
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
