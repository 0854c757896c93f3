import { expect, test } from 'vitest';

import { choices, emptyFilter, filtered, isEmpty, NO_KEY } from './filter';
import { ended } from './fixture';

const rows = [
  ended(1),
  ended(2, { model: 'big', outcome: 'left' }),
  ended(3, { key: null, outcome: 'model_load_failed', id: 'Replay-3' }),
  ended(4, { outcome: 'queue_full' }),
];
const numbers = (filter: Partial<ReturnType<typeof emptyFilter>>) =>
  filtered(rows, { ...emptyFilter(), ...filter }).map(({ n }) => n);

test('an empty filter lets all through', () => {
  expect(numbers({})).toEqual([1, 2, 3, 4]);
  expect(isEmpty({ ...emptyFilter(), text: ' ' })).toBe(true);
  expect(isEmpty({ ...emptyFilter(), model: 'big' })).toBe(false);
});

test('model, key, outcome and a part of the id all have to fit', () => {
  expect(numbers({ model: 'big' })).toEqual([2]);
  expect(numbers({ key: 'k1' })).toEqual([1, 2, 4]);
  expect(numbers({ key: NO_KEY })).toEqual([3]);
  expect(numbers({ text: ' replay ' })).toEqual([3]);
  expect(numbers({ key: 'k1', outcome: 'left' })).toEqual([2]);
});

test('"failed" is every error, a code just that one', () => {
  expect(numbers({ outcome: 'failed' })).toEqual([3, 4]);
  expect(numbers({ outcome: 'queue_full' })).toEqual([4]);
});

test('choices come once and in order', () => {
  expect(choices(rows, ({ model }) => model)).toEqual(['big', 'smol']);
});
