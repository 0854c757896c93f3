import { expect, test } from 'vitest';

import { ended } from './fixture';
import { longest, segmentsOf } from './timing';

const brief = (request: ReturnType<typeof ended>) =>
  segmentsOf(request).map(({ phase, from, until }) => [phase, from, until]);

test('a stream waited, had its prompt read and its answer written', () => {
  expect(brief(ended(1))).toEqual([
    ['waited', 0, 1],
    ['read', 1, 3],
    ['written', 3, 10],
  ]);
});

test('one that never got its model only waited', () => {
  expect(brief(ended(1, { waited: null, first_token: null }))).toEqual([['waited', 0, 10]]);
});

test('a stream without a token was still being read', () => {
  expect(brief(ended(1, { first_token: null }))).toEqual([
    ['waited', 0, 1],
    ['read', 1, 10],
  ]);
});

test('an answer in one piece is split by the speed of its engine', () => {
  const segments = segmentsOf(ended(1, { stream: false, first_token: null }));
  expect(segments).toEqual([
    { phase: 'waited', from: 0, until: 1, estimated: false },
    { phase: 'read', from: 1, until: 3, estimated: true },
    { phase: 'written', from: 3, until: 10, estimated: true },
  ]);
});

test('without a speed it is not split', () => {
  expect(brief(ended(1, { stream: false, first_token: null, tokens_per_second: null }))).toEqual([
    ['waited', 0, 1],
    ['answered', 1, 10],
  ]);
});

test('a speed that does not fit does not reach before the wait', () => {
  expect(brief(ended(1, { stream: false, first_token: null, tokens_per_second: 1 }))).toEqual([
    ['waited', 0, 1],
    ['written', 1, 10],
  ]);
});

test('times beyond the end are cut, and nothing is left of no time', () => {
  expect(brief(ended(1, { waited: 20, first_token: 30 }))).toEqual([['waited', 0, 10]]);
  expect(brief(ended(1, { waited: 0, first_token: 0, seconds: 0 }))).toEqual([]);
});

test('the common scale is the longest', () => {
  expect(longest([ended(1), ended(2, { seconds: 12 })])).toBe(12);
  expect(longest([])).toBe(0);
});
