import { expect, test } from 'vitest';

import { appended, count, MOST_LINES } from './chunks';
import type { LogItem } from './items';

function lost(first: number, many: number): LogItem[] {
  return Array.from({ length: many }, (_, at) => ({ kind: 'lost', key: first + at, lost: 1 }));
}

test('all but the last chunk stay as they were', () => {
  const before = appended([], lost(1, 450));
  const after = appended(before, lost(451, 20));
  expect(after[0]).toBe(before[0]);
  expect(after[1]).toBe(before[1]);
  expect(after[2]!.key).toBe(before[2]!.key);
  expect(count(after)).toBe(470);
});

test('items keep their order over chunks', () => {
  let chunks = appended([], lost(1, 150));
  chunks = appended(chunks, lost(151, 300));
  expect(chunks.flatMap(({ items }) => items.map(({ key }) => key))).toEqual(
    Array.from({ length: 450 }, (_, at) => at + 1),
  );
});

test('the oldest go when there are too many', () => {
  let chunks = appended([], lost(1, MOST_LINES));
  expect(count(chunks)).toBe(MOST_LINES);
  chunks = appended(chunks, lost(MOST_LINES + 1, 1));
  expect(count(chunks)).toBeLessThanOrEqual(MOST_LINES);
  expect(chunks.at(-1)!.items.at(-1)!.key).toBe(MOST_LINES + 1);
});

test('of too many at once the last stay', () => {
  const chunks = appended([], lost(1, MOST_LINES + 5));
  expect(count(chunks)).toBe(MOST_LINES);
  expect(chunks[0]!.items[0]!.key).toBe(6);
});
