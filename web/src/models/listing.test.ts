import { expect, test } from 'vitest';

import { arranged, contains, listed, matches } from './listing';
import { model } from './testing';

const models = [
  model({ name: 'stopped-10' }),
  model({ name: 'stopped-9' }),
  model({ name: 'gone', unavailable: 'Its file is missing.' }),
  model({ name: 'failed', state: 'failed' }),
  model({ name: 'wanted', waiting: 1, memory: { expected: {}, measured: { host: 3 } } }),
  model({ name: 'ready', state: 'ready', memory: { expected: { gpu0: 5 }, measured: {} } }),
  model({ name: 'loading', state: 'starting', memory: { expected: { gpu0: 9, host: 1 }, measured: {} } }),
];

test('running models come first, then failed ones, and last those that can not be used', () => {
  expect(listed(models, 'all', '', 'state')).toEqual([
    ...['loading', 'ready', 'wanted'],
    'failed',
    ...['stopped-9', 'stopped-10'],
    'gone',
  ]);
});

test('models are sorted by name, numbers as numbers', () => {
  expect(listed(models, 'loadable', '', 'name')).toEqual(['stopped-9', 'stopped-10', 'wanted']);
});

test('models are sorted by memory, the largest first', () => {
  expect(listed(models, 'all', '', 'memory').slice(0, 3)).toEqual(['loading', 'ready', 'wanted']);
});

test('sorting leaves what it was given as it was', () => {
  const names = models.map(({ name }) => name);
  listed(models, 'all', '', 'state');
  expect(models.map(({ name }) => name)).toEqual(names);
});

test('filters take the models that they name', () => {
  const of = (filter: Parameters<typeof matches>[1]): string[] =>
    models.filter((one) => matches(one, filter)).map(({ name }) => name);
  expect(of('loaded')).toEqual(['ready', 'loading']);
  expect(of('loadable')).toEqual(['stopped-10', 'stopped-9', 'wanted']);
  expect(of('failed')).toEqual(['gone', 'failed']);
  expect(of('all')).toHaveLength(models.length);
});

test('a model is found by all words of what it is called and said to be', () => {
  const one = model({ name: 'Qwen3-4B', aliases: ['gpt-4o'], description: 'For code', personalities: ['pirate'] });
  expect(contains(one, 'qwen CODE')).toBe(true);
  expect(contains(one, ' gpt ')).toBe(true);
  expect(contains(one, 'pirate')).toBe(true);
  expect(contains(one, 'qwen prose')).toBe(false);
});

test('an order that is held keeps its places, drops who has gone and adds who is new behind', () => {
  const exists = (name: string): boolean => name !== 'gone';
  expect(arranged(['c', 'new', 'a'], ['a', 'gone', 'b', 'c'], exists)).toEqual(['a', 'b', 'c', 'new']);
  expect(arranged(['c', 'a'], null, exists)).toEqual(['c', 'a']);
});
