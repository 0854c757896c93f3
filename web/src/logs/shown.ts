import type { Chunk } from './chunks';
import type { Filter, Mark } from './filter';
import { reaches, type Level, type LogItem, type LogLine } from './items';

export interface Row {
  item: LogItem;
  /** Where the filter was found in its text. */
  marks: readonly Mark[];
}

/** What is left of a chunk. */
export interface ShownChunk {
  key: number;
  rows: Row[];
  /** How many of them are lines of the log. */
  lines: number;
  /** How many characters the longest row has, about. */
  longest: number;
}

/** What leaves of a chunk the lines that are to be seen; the same object for the same chunk. */
export function selection(filter: Filter | null, least: Level): (chunk: Chunk) => ShownChunk {
  const known = new WeakMap<Chunk, ShownChunk>();
  return (chunk) => {
    let shown = known.get(chunk);
    if (!shown) {
      const rows = chunk.items.flatMap((item) => rowOf(item, filter, least) ?? []);
      shown = {
        key: chunk.key,
        rows,
        lines: rows.filter(({ item }) => item.kind === 'line').length,
        longest: Math.max(0, ...rows.map(({ item }) => columns(item))),
      };
      known.set(chunk, shown);
    }
    return shown;
  };
}

function rowOf(item: LogItem, filter: Filter | null, least: Level): Row | null {
  // Between lines that were picked out, these would tell nothing.
  if (item.kind !== 'line') return filter ? null : { item, marks: [] };
  if (!reaches(item, least)) return null;
  if (!filter) return { item, marks: [] };
  const marks = filter(item.text);
  return marks || isAbout(item, filter) ? { item, marks: marks ?? [] } : null;
}

function isAbout({ logger, request, level }: LogLine, filter: Filter): boolean {
  return [logger, request, level].some((text) => text !== null && filter(text));
}

/** Characters that come before the text of a service's line: time, level. */
const BEFORE = 24;

/** How wide a row is in characters; what is not of the first kinds of letters may take two. */
function columns(item: LogItem): number {
  if (item.kind !== 'line') return 40;
  const { text, time, logger, request } = item;
  const widest = Math.max(...text.split('\n').map((line) => line.length + 7 * line.split('\t').length - 7));
  const wide = /[^\u0000-\u04ff]/.test(text) ? 2 : 1;
  return widest * wide + (time === null ? 0 : BEFORE + (logger?.length ?? 0) + (request?.length ?? 0) + 6);
}

/** How many lines of the screen a chunk takes, about, where `width` characters stand in one (null: none is broken). */
export function linesOf({ rows }: ShownChunk, width: number | null): number {
  return rows.reduce((sum, { item }) => {
    if (item.kind !== 'line') return sum + 1;
    const own = item.text.split('\n').length;
    return sum + (width === null ? own : Math.max(own, Math.ceil(columns(item) / width)));
  }, 0);
}
