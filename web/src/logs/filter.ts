/** Where a filter was found in a text: beginning and end of a place. */
export type Mark = readonly [start: number, end: number];

/**
 * Tells the places in a text, in order; null where it does not match. What else is known `about` the text counts, too,
 * so that there may be nothing to mark.
 */
export type Filter = (text: string, about?: readonly string[]) => Mark[] | null;

/**
 * Of what somebody typed: words, all of which must be there in any order, or a regular expression as `/…/` with flags.
 * Null: nothing. Throws SyntaxError.
 */
export function filterOf(typed: string): Filter | null {
  const text = typed.trim();
  if (!text) return null;
  const [, source, flags] = /^\/(.+)\/([dgimsuvy]*)$/s.exec(text) ?? [];
  const patterns =
    source === undefined
      ? text.split(/\s+/).map((word) => new RegExp(word.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'giu'))
      : [new RegExp(source, `${flags!.replace(/[gy]/g, '')}g`)];
  return (line, about = []) => {
    const marks: Mark[] = [];
    for (const pattern of patterns) {
      const matches = [...line.matchAll(pattern)];
      if (!matches.length && !about.some((other) => other.search(pattern) >= 0)) return null;
      marks.push(...matches.map(({ 0: found, index }): Mark => [index, index + found.length]));
    }
    return joined(marks);
  };
}

/** In order, without empty ones, and those that overlap as one. */
function joined(marks: readonly Mark[]): Mark[] {
  const result: Mark[] = [];
  for (const [start, end] of [...marks].sort(([one], [other]) => one - other)) {
    const last = result.at(-1);
    if (last && start < last[1]) result[result.length - 1] = [last[0], Math.max(last[1], end)];
    else if (end > start) result.push([start, end]);
  }
  return result;
}

export interface Piece {
  text: string;
  marked: boolean;
}

/** The text cut at its marks. */
export function pieces(text: string, marks: readonly Mark[]): Piece[] {
  const cut: Piece[] = [];
  let at = 0;
  for (const [start, end] of marks) {
    if (start > at) cut.push({ text: text.slice(at, start), marked: false });
    cut.push({ text: text.slice(start, end), marked: true });
    at = end;
  }
  if (at < text.length) cut.push({ text: text.slice(at), marked: false });
  return cut;
}
