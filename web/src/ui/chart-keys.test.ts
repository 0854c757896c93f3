import { expect, test } from 'vitest';

import { placeOf } from './chart-keys';

test.each([
  ['ArrowLeft', 49],
  ['ArrowRight', 51],
  ['PageDown', 40],
  ['PageUp', 60],
  ['Home', 2],
  ['End', 102],
  ['Enter', null],
])('%s', (key, place) => expect(placeOf(key, 50, 2, 102)).toBe(place));

test('nothing leads beyond the ends', () => {
  expect([placeOf('ArrowLeft', 2, 2, 9), placeOf('PageUp', 9, 2, 9)]).toEqual([2, 9]);
  expect(placeOf('ArrowRight', 0, 0, 0)).toBe(0);
});
