import { expect, test } from 'vitest';

import { ended } from './fixture';
import { COLUMNS, NEWEST, pressed, sorted, sortWords, type Column } from './sort';

const numbers = (requests: readonly { n: number }[]) => requests.map(({ n }) => n);

test('newest first is the order in which they come', () => {
  const requests = [ended(3, { seconds: 1 }), ended(1, { seconds: 50 }), ended(2)];
  expect(sorted(requests, NEWEST)).toBe(requests);
});

test('by time is by the end of a request', () => {
  const requests = [ended(3, { seconds: 1 }), ended(2), ended(1, { seconds: 20 })];
  expect(numbers(sorted(requests, { column: 'time', descending: false }))).toEqual([3, 2, 1]);
});

test.each<[Column, object, object]>([
  ['duration', { seconds: 2 }, { seconds: 10.5 }],
  ['first_token', { first_token: 2 }, { first_token: 10.5 }],
  ['prompt', { prompt_tokens: 2 }, { prompt_tokens: 30 }],
  ['answer', { completion_tokens: 2 }, { completion_tokens: 100 }],
  ['speed', { tokens_per_second: 9 }, { tokens_per_second: 30 }],
])('%s is sorted by number, both ways', (column, low, high) => {
  const requests = [ended(3, low), ended(2, high), ended(1, low)];
  expect(numbers(sorted(requests, { column, descending: true }))).toEqual([2, 3, 1]);
  expect(numbers(sorted(requests, { column, descending: false }))).toEqual([3, 1, 2]);
});

test('what is not known is last, either way', () => {
  const requests = [ended(3, { first_token: null }), ended(2, { first_token: 0 }), ended(1)];
  expect(numbers(sorted(requests, { column: 'first_token', descending: true }))).toEqual([1, 2, 3]);
  expect(numbers(sorted(requests, { column: 'first_token', descending: false }))).toEqual([2, 1, 3]);
});

test('a header sorts the greatest first, then the other way round', () => {
  const once = pressed(NEWEST, 'speed');
  expect(once).toEqual({ column: 'speed', descending: true });
  expect(pressed(once, 'speed')).toEqual({ column: 'speed', descending: false });
  expect(pressed(once, 'time')).toEqual(NEWEST);
});

test('every order has words of its own', () => {
  const all = (Object.keys(COLUMNS) as Column[]).flatMap((column) =>
    [true, false].map((descending) => sortWords({ column, descending })),
  );
  expect(new Set(all).size).toBe(12);
  expect(all).toContain('speed, fastest first');
});
