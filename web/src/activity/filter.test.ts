import { expect, test } from 'vitest';

import { choices, emptyFilter, filtered, isEmpty, NO_KEY, NO_MODEL } from './filter';
import { ended } from './fixture';

const rows = [
  ended(1),
  ended(2, { model: 'big', outcome: 'left' }),
  ended(3, { key: null, outcome: 'model_load_failed', id: 'Replay-3' }),
  ended(4, { outcome: 'queue_full' }),
  ended(5, { model: null, outcome: 'model_not_found', started: 2000 }),
];
const numbers = (filter: Partial<ReturnType<typeof emptyFilter>>) =>
  filtered(rows, { ...emptyFilter(), ...filter }).map(({ n }) => n);

test('an empty filter lets all through', () => {
  expect(numbers({})).toEqual([1, 2, 3, 4, 5]);
  expect(isEmpty({ ...emptyFilter(), text: ' ' })).toBe(true);
  expect(isEmpty({ ...emptyFilter(), model: 'big' })).toBe(false);
  expect(isEmpty({ ...emptyFilter(), span: [0, 1] })).toBe(false);
});

test('words may be of the id, the model, the key, the route and the outcome, in any order', () => {
  expect(numbers({ text: 'BIG left' })).toEqual([2]);
  expect(numbers({ text: 'no model not found' })).toEqual([5]);
  expect(numbers({ text: 'load failed' })).toEqual([3]);
  expect(numbers({ text: '/v1/chat queue_full' })).toEqual([4]);
  const named = filtered(rows, { ...emptyFilter(), text: 'alice' }, (id) => (id === 'k1' ? 'Alice' : id));
  expect(named.map(({ n }) => n)).toEqual([1, 2, 4, 5]);
});

test('model, key, outcome and words all have to fit', () => {
  expect(numbers({ model: 'big' })).toEqual([2]);
  expect(numbers({ model: NO_MODEL })).toEqual([5]);
  expect(numbers({ key: 'k1' })).toEqual([1, 2, 4, 5]);
  expect(numbers({ key: NO_KEY })).toEqual([3]);
  expect(numbers({ text: ' replay ' })).toEqual([3]);
  expect(numbers({ key: 'k1', outcome: 'left' })).toEqual([2]);
});

test('"failed" is every error, a code just that one', () => {
  expect(numbers({ outcome: 'failed' })).toEqual([3, 4, 5]);
  expect(numbers({ outcome: 'queue_full' })).toEqual([4]);
});

test('only those that were there at the time that was chosen', () => {
  expect(numbers({ span: [1990, 2001] })).toEqual([5]);
  expect(numbers({ span: [1002, 1003], model: 'big' })).toEqual([2]);
});

test('choices come once and in order', () => {
  expect(choices(rows, ({ model }) => model ?? NO_MODEL)).toEqual([NO_MODEL, 'big', 'smol']);
});
