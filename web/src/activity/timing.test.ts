import { expect, test } from 'vitest';

import { ended } from './fixture';
import { longest, phasesOf, promptSpeed, segmentsOf } from './timing';

const brief = (request: ReturnType<typeof ended>) =>
  segmentsOf(request).map(({ phase, from, until }) => [phase, from, until]);

test('a stream waited, queued for a slot, had its prompt read and its answer written', () => {
  expect(brief(ended(1))).toEqual([
    ['waited', 0, 1],
    ['queued', 1, 1.5],
    ['read', 1.5, 3],
    ['written', 3, 10],
  ]);
});

test('a moment between the model and its prompt is no wait for a slot', () => {
  expect(brief(ended(1, { prompt_seconds: 1.985 }))).toEqual([
    ['waited', 0, 1],
    ['read', expect.closeTo(1.015), 3],
    ['written', 3, 10],
  ]);
});

test('where the engine does not say how long it read, nobody claims that it did', () => {
  expect(brief(ended(1, { prompt_seconds: null }))).toEqual([
    ['waited', 0, 1],
    ['begun', 1, 3],
    ['written', 3, 10],
  ]);
});

test('reading that took longer than there was time does not reach before the wait', () => {
  expect(brief(ended(1, { prompt_seconds: 5 }))).toEqual([
    ['waited', 0, 1],
    ['read', 1, 3],
    ['written', 3, 10],
  ]);
});

test('one that never got its model only waited', () => {
  expect(brief(ended(1, { waited: null, first_token: null, prompt_seconds: null }))).toEqual([['waited', 0, 10]]);
});

test('a stream without a token was never seen to be read', () => {
  expect(brief(ended(1, { first_token: null, prompt_seconds: null }))).toEqual([
    ['waited', 0, 1],
    ['begun', 1, 10],
  ]);
});

test('an answer in one piece is split by the speed of its engine', () => {
  const segments = segmentsOf(ended(1, { stream: false, first_token: null }));
  expect(segments).toEqual([
    { phase: 'waited', from: 0, until: 1, estimated: false },
    { phase: 'queued', from: 1, until: 1.5, estimated: true },
    { phase: 'read', from: 1.5, until: 3, estimated: true },
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

test('the key has what there is, in the order in which it happens', () => {
  expect(phasesOf([])).toEqual([]);
  expect(phasesOf([ended(2, { prompt_seconds: null }), ended(1)])).toEqual([
    'waited',
    'queued',
    'begun',
    'read',
    'written',
  ]);
});

test('the speed of the prompt is that of the engine, without what was cached', () => {
  expect(promptSpeed(ended(1))).toBe(10);
  expect(promptSpeed(ended(1, { cached_tokens: null }))).toBeCloseTo(20 / 1.5);
  expect(promptSpeed(ended(1, { prompt_seconds: null }))).toBeNull();
  expect(promptSpeed(ended(1, { prompt_seconds: 0 }))).toBeNull();
});

test('the common scale is the longest', () => {
  expect(longest([ended(1), ended(2, { seconds: 12 })])).toBe(12);
  expect(longest([])).toBe(0);
});
