import type { Chunk } from './chunks';
import type { Filter, Mark } from './filter';
import { reaches, type Level, type LogItem, type LogLine } from './items';

/** Another day begins with the line after it. */
export interface NewDay {
  kind: 'day';
  key: number;
  time: number;
}

export interface Row {
  item: LogItem | NewDay;
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
  /** When its first and last lines were written; null: no line says. */
  first: number | null;
  last: number | null;
}

/** What leaves of a chunk the lines that are to be seen; the same object for the same chunk. */
export function selection(filter: Filter | null, least: Level): (chunk: Chunk) => ShownChunk {
  const known = new WeakMap<Chunk, ShownChunk>();
  return (chunk) => {
    let shown = known.get(chunk);
    if (!shown) {
      const rows = chunk.items.flatMap((item) => rowOf(item, filter, least) ?? []);
      const times = rows.flatMap(({ item }) => (item.kind === 'line' ? (item.time ?? []) : []));
      shown = {
        key: chunk.key,
        rows: withDays(rows),
        lines: rows.filter(({ item }) => item.kind === 'line').length,
        longest: Math.max(0, ...rows.map(({ item }) => columns(item))),
        first: times[0] ?? null,
        last: times.at(-1) ?? null,
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
  const marks = filter(item.text, aboutOf(item));
  return marks && { item, marks };
}

/** The days that begin with chunks, each with the key of its chunk: times, none where the day of the line before goes on. */
export function daysOf(chunks: readonly ShownChunk[]): Map<number, number> {
  const days = new Map<number, number>();
  let last: number | null = null;
  for (const chunk of chunks) {
    if (chunk.first !== null && !isSameDay(chunk.first, last)) days.set(chunk.key, chunk.first);
    last = chunk.last ?? last;
  }
  return days;
}

function withDays(rows: readonly Row[]): Row[] {
  const dated: Row[] = [];
  let last: number | null = null;
  for (const row of rows) {
    const { item } = row;
    if (item.kind === 'line' && item.time !== null) {
      if (last !== null && !isSameDay(item.time, last)) {
        dated.push({ item: { kind: 'day', key: -item.key, time: item.time }, marks: [] });
      }
      last = item.time;
    }
    dated.push(row);
  }
  return dated;
}

function isSameDay(one: number, other: number | null): boolean {
  return other !== null && new Date(one * 1000).toDateString() === new Date(other * 1000).toDateString();
}

/** As people say it: with the day of the week. */
export function dayWords(time: number): string {
  return new Date(time * 1000).toLocaleDateString(undefined, { dateStyle: 'full' });
}

function aboutOf({ logger, request, level, model }: LogLine): string[] {
  return [logger, request, level, model].filter((text) => text !== null);
}

/** Characters that come before the text of a service's line: time, level. */
const BEFORE = 24;

/** How wide a row is in characters; what is not of the first kinds of letters may take two. */
function columns(item: Row['item']): number {
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
