import { expect, test } from 'vitest';

import { filterOf, pieces } from './filter';

test('nothing typed is no filter', () => {
  expect(filterOf('  ')).toBeNull();
});

test('words are found in any case, wherever they are', () => {
  expect(filterOf('warn')!('WARN: a Warning')).toEqual([
    [0, 4],
    [8, 12],
  ]);
  expect(filterOf('warn')!('fine')).toBeNull();
});

test('signs of expressions are plain text in words', () => {
  expect(filterOf('a.b(c)')!('a.b(c)')).toEqual([[0, 6]]);
  expect(filterOf('a.b')!('axb')).toBeNull();
});

test('of several words all must be there, in any order', () => {
  const filter = filterOf('POST  200')!;
  expect(filter('POST /v1/chat/completions 200')).toEqual([
    [0, 4],
    [26, 29],
  ]);
  expect(filter('200 for a POST')).toEqual([
    [0, 3],
    [10, 14],
  ]);
  expect(filter('POST /v1/chat/completions 404')).toBeNull();
});

test('places of words that overlap are one', () => {
  expect(filterOf('chat at /v1')!('/v1/chat')).toEqual([
    [0, 3],
    [4, 8],
  ]);
  expect(filterOf('ab bc')!('abc')).toEqual([[0, 3]]);
});

test('a word may be found in what is known about the text', () => {
  expect(filterOf('POST 5f2a')!('POST /v1', ['5f2a90c1'])).toEqual([[0, 4]]);
  expect(filterOf('POST 5f2a')!('GET /v1', ['5f2a90c1'])).toBeNull();
  expect(filterOf('/^5F/i')!('POST', ['5f2a90c1'])).toEqual([]);
});

test('spaces belong to an expression', () => {
  expect(filterOf('/POST .* 200/')!('POST /v1 200')).toEqual([[0, 12]]);
  expect(filterOf('/POST .* 200/')!('200 POST')).toBeNull();
});

test('between slashes it is an expression, with its flags', () => {
  expect(filterOf('/^a+/')!('aab')).toEqual([[0, 2]]);
  expect(filterOf('/A/')!('a')).toBeNull();
  expect(filterOf('/A/i')!('a')).toEqual([[0, 1]]);
});

test('a path is no expression', () => {
  expect(filterOf('/v1/chat')!('GET /v1/chat/completions')).toEqual([[4, 12]]);
});

test('an expression that is wrong says so', () => {
  expect(() => filterOf('/(/')).toThrow(SyntaxError);
});

test('an expression that matches nothing in particular matches, without marks', () => {
  expect(filterOf('/x*/')!('abc')).toEqual([]);
});

test('a sticky expression finds the same in every line', () => {
  const filter = filterOf('/a/y')!;
  expect(filter('ba')).toEqual([[1, 2]]);
  expect(filter('ba')).toEqual([[1, 2]]);
});

test('a text is cut at its marks', () => {
  expect(pieces('abcd', [[1, 3]])).toEqual([
    { text: 'a', marked: false },
    { text: 'bc', marked: true },
    { text: 'd', marked: false },
  ]);
  expect(pieces('ab', [])).toEqual([{ text: 'ab', marked: false }]);
});
