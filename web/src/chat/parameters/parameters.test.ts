import { beforeEach, describe, expect, it } from 'vitest';

import type { Parameters } from '../types';
import {
  countOf,
  fieldsOf,
  keepDefaults,
  keptDefaults,
  LENGTHS,
  parse,
  randomSeed,
  readStop,
  SAMPLING,
  SEED,
  typedStop,
  valid,
} from './parameters';

const field = (name: string) => [...LENGTHS, ...SAMPLING, SEED].find((one) => one.name === name)!;

describe('a number that is typed', () => {
  it.each([
    ['temperature', '0.7', { value: 0.7 }],
    ['temperature', ' 0,7 ', { value: 0.7 }],
    ['temperature', '', { value: null }],
    ['temperature', '-1', { mistake: 'It must be at least 0.' }],
    ['temperature', 'warm', { mistake: 'That is no number.' }],
    ['top_p', '1.01', { mistake: 'It must be at most 1.' }],
    ['top_k', '1.5', { mistake: 'It must be a whole number.' }],
    ['max_tokens', '0', { mistake: 'It must be at least 1.' }],
    ['max_tokens', '2147483648', { mistake: 'It must be at most 2147483647.' }],
    ['seed', 'Infinity', { mistake: 'That is no number.' }],
    ['ctx', '1e3', { value: 1000 }],
  ])('%s %j', (name, typed, expected) => {
    expect(parse(field(name), typed)).toEqual(expected);
  });
});

it('sends what is set, and only what the service takes', () => {
  const parameters = { temperature: 0, top_p: 5, top_k: undefined, stop: ['a', '', 'a'], other: 1 } as Parameters;
  expect(fieldsOf(parameters)).toEqual({ temperature: 0, stop: ['a'] });
  expect(fieldsOf({ stop: [] })).toEqual({});
  expect(countOf(parameters)).toBe(2);
});

it.each([null, 'text', [], { temperature: '1' }, { stop: 'x' }, { seed: NaN }])('takes nothing of %j', (given) => {
  expect(valid(given)).toEqual({});
});

it('rolls seeds that the service takes', () => {
  for (let roll = 0; roll < 200; roll += 1) expect(valid({ seed: randomSeed() })).toHaveProperty('seed');
});

it.each(['\n', 'a\tb', '\\n', '\\', 'a\\\nb'])('%j stays itself when it is shown and typed again', (text) => {
  expect(readStop(typedStop(text))).toBe(text);
});

describe('what new conversations begin with', () => {
  beforeEach(() => localStorage.clear());

  it('is nothing at first', () => {
    expect(keptDefaults()).toEqual({ parameters: {}, system: '' });
  });

  it('is what was kept', () => {
    keepDefaults({ parameters: { temperature: 0.5 }, system: 'Be short.' });
    expect(keptDefaults()).toEqual({ parameters: { temperature: 0.5 }, system: 'Be short.' });
  });

  it.each(['{', '3', '{"parameters":{"temperature":-4},"system":1}'])('is nothing where %j was kept', (kept) => {
    localStorage.setItem('llamaherd.parameters', kept);
    expect(keptDefaults()).toEqual({ parameters: {}, system: '' });
  });
});
