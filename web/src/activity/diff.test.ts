import type { Change } from 'diff';
import { expect, test } from 'vitest';

import { wordDiff } from './diff';

const texts = (changes: Change[] | null) =>
  changes!.map(({ value, added, removed }) => `${added ? '+' : removed ? '-' : '='}${value}`);

test('only the words that differ are marked', () => {
  const changes = wordDiff('The quick fox runs.', 'The slow fox runs.');
  expect(texts(changes)).toEqual(['=The ', '-quick', '+slow', '= fox runs.']);
});

test('all of a text may be new or gone, and nothing is no change', () => {
  expect(texts(wordDiff('', 'a b'))).toEqual(['+a b']);
  expect(texts(wordDiff('a b', ''))).toEqual(['-a b']);
  expect(wordDiff('', '')).toEqual([]);
});

test.each([
  ['Grüße, 世界! 😀 x_1\n\n- a', 'Grüße an 世界!! 😀😀\n- b'],
  ['a b  a b a', 'b a\nb'],
])('both texts are whole in it, spaces too: %j', (before, after) => {
  const changes = wordDiff(before, after)!;
  const joined = (gone: 'added' | 'removed') => changes.map((change) => (change[gone] ? '' : change.value)).join('');
  expect([joined('added'), joined('removed')]).toEqual([before, after]);
});

test('a search that takes too long is given up', () => {
  const words = (seed: string) => Array.from({ length: 3000 }, (_, at) => `${seed}${at}`).join('\n');
  expect(wordDiff(words('a'), words('b'))).toBeNull();
  expect(wordDiff('a b c', 'd e f', { maxEditLength: 2, timeout: 1000 })).toBeNull();
});
