/** Where a filter was found in a text: beginning and end of a place. */
export type Mark = readonly [start: number, end: number];

/** Tells the places in a text, in order; null where there is none. An expression may match with nothing to mark. */
export type Filter = (text: string) => Mark[] | null;

/** Of what somebody typed: words, or a regular expression as `/…/` with flags. Null: nothing. Throws SyntaxError. */
export function filterOf(typed: string): Filter | null {
  const text = typed.trim();
  if (!text) return null;
  const [, source, flags] = /^\/(.+)\/([dgimsuvy]*)$/s.exec(text) ?? [];
  const pattern =
    source === undefined
      ? new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'giu')
      : new RegExp(source, `${flags!.replace(/[gy]/g, '')}g`);
  return (line) => {
    const matches = [...line.matchAll(pattern)];
    if (!matches.length) return null;
    return matches.filter(([found]) => found).map(({ 0: found, index }): Mark => [index, index + found.length]);
  };
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
