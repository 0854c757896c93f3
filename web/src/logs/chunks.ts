import type { LogItem } from './items';

/** Lines that are drawn together; never changed, but replaced by a longer one. */
export interface Chunk {
  key: number;
  items: readonly LogItem[];
}

export const MOST_LINES = 10_000;
const SIZE = 50;

/** The chunks with items at their end: all but the last stay the same objects; at most MOST_LINES are kept. */
export function appended(chunks: readonly Chunk[], items: readonly LogItem[]): Chunk[] {
  const result = [...chunks];
  let rest = items.slice(-MOST_LINES);
  const last = result.at(-1);
  if (last && last.items.length < SIZE && rest.length) {
    const room = SIZE - last.items.length;
    result[result.length - 1] = { key: last.key, items: [...last.items, ...rest.slice(0, room)] };
    rest = rest.slice(room);
  }
  while (rest.length) {
    result.push({ key: rest[0]!.key, items: rest.slice(0, SIZE) });
    rest = rest.slice(SIZE);
  }
  let kept = count(result);
  while (kept > MOST_LINES) kept -= result.shift()!.items.length;
  return result;
}

export function count(chunks: readonly Chunk[]): number {
  return chunks.reduce((sum, { items }) => sum + items.length, 0);
}
