import { expect, test } from 'vitest';

import { differences } from './line-diff';

const before = Array.from({ length: 30 }, (_, at) => `line ${at + 1}\n`).join('');

test('the same texts do not differ', () => {
  expect(differences(before, before)).toEqual([]);
});

test('what differs comes with three lines around it and both numbers', () => {
  const [hunk, ...more] = differences(before, before.replace('line 10\n', 'line ten\nand more\n'));
  expect(more).toEqual([]);
  expect(hunk!.map(({ kind, before, after }) => [kind, before, after])).toEqual([
    ['same', 7, 7],
    ['same', 8, 8],
    ['same', 9, 9],
    ['removed', 10, null],
    ['added', null, 10],
    ['added', null, 11],
    ['same', 11, 12],
    ['same', 12, 13],
    ['same', 13, 14],
  ]);
});

test('parts far from each other are told apart', () => {
  expect(differences(before, before.replace('line 2\n', '').replace('line 28\n', 'x\n')).length).toBe(2);
});

test('a line end at the end that is missing is no line', () => {
  const [hunk] = differences('a\nb', 'a\nc');
  expect(hunk!.map(({ text }) => text)).toEqual(['a', 'b', 'c']);
});
