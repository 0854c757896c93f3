import { expect, test } from 'vitest';

import { wordDiff, type Piece } from './diff';

const side = (pieces: Piece[], kind: 'old' | 'new') =>
  pieces
    .filter((piece) => piece.kind === 'same' || piece.kind === kind)
    .map(({ text }) => text)
    .join('');

test('only the words that differ are marked', () => {
  expect(wordDiff('The quick fox runs.', 'The slow fox runs.')).toEqual([
    { kind: 'same', text: 'The ' },
    { kind: 'old', text: 'quick' },
    { kind: 'new', text: 'slow' },
    { kind: 'same', text: ' fox runs.' },
  ]);
});

test('the same text is one piece, and nothing is none', () => {
  expect(wordDiff('a b', 'a b')).toEqual([{ kind: 'same', text: 'a b' }]);
  expect(wordDiff('', '')).toEqual([]);
});

test('all of a text may be new or gone', () => {
  expect(wordDiff('', 'a b')).toEqual([{ kind: 'new', text: 'a b' }]);
  expect(wordDiff('a b', '')).toEqual([{ kind: 'old', text: 'a b' }]);
});

test.each([
  ['Grüße, 世界! 😀 x_1\n\n- a', 'Grüße an 世界!! 😀😀\n- b'],
  ['a b a b a', 'b a b'],
  ['one two three', 'three two one'],
])('both texts are whole in it: %j', (before, after) => {
  const pieces = wordDiff(before, after);
  expect(side(pieces, 'old')).toBe(before);
  expect(side(pieces, 'new')).toBe(after);
});

test('texts that are too long for words are compared by lines', () => {
  const words = (seed: number) => Array.from({ length: 3000 }, (_, at) => `${seed}w${at}`).join(' ');
  const pieces = wordDiff(`${words(1)}\nsame\nend ${words(2)}`, `${words(3)}\nsame\nend ${words(4)}`);
  expect(pieces.filter(({ kind }) => kind === 'same')).toEqual([{ kind: 'same', text: 'same\n' }]);
});

test('texts that are too long for lines are replaced as a whole', () => {
  const lines = (seed: number) => Array.from({ length: 3000 }, (_, at) => `${seed} ${at}\n`).join('');
  expect(wordDiff(lines(1), lines(2)).map(({ kind }) => kind)).toEqual(['old', 'new']);
});
