import { expect, test } from 'vitest';

import { percentilesOf } from './percentiles';

const hundred = Array.from({ length: 100 }, (_, at) => 100 - at);

test('of the values that are known, in whatever order', () => {
  expect(percentilesOf([null, ...hundred], 'lowest')).toEqual({ p50: 50, p95: 95, count: 100 });
});

test('of speeds 19 of 20 are at least as high', () => {
  expect(percentilesOf(hundred, 'highest')).toEqual({ p50: 51, p95: 6, count: 100 });
});

test('of a few each is one that there was', () => {
  expect(percentilesOf([3], 'lowest')).toEqual({ p50: 3, p95: 3, count: 1 });
  expect(percentilesOf([10, 9], 'lowest')).toEqual({ p50: 9, p95: 10, count: 2 });
  expect(percentilesOf([null], 'lowest')).toBeNull();
});
