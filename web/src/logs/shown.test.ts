import { expect, test } from 'vitest';

import type { Chunk } from './chunks';
import { filterOf } from './filter';
import type { LogLine } from './items';
import { linesOf, selection } from './shown';

function line(key: number, text: string, more: Partial<LogLine> = {}): LogLine {
  return {
    kind: 'line',
    key,
    n: key,
    text,
    time: null,
    level: null,
    logger: null,
    request: null,
    model: null,
    ...more,
  };
}

function texts(chunk: Chunk, typed: string, level: Parameters<typeof selection>[1] = 'DEBUG'): string[] {
  return selection(
    filterOf(typed),
    level,
  )(chunk).rows.map(({ item }) => (item.kind === 'line' ? item.text : item.kind));
}

const chunk: Chunk = {
  key: 1,
  items: [
    { kind: 'life', key: 1, of: 'model', pid: 7 },
    line(2, 'loading', { level: 'INFO' }),
    line(3, 'no room', { level: 'ERROR', request: '5f2a90c1' }),
    line(4, 'plain'),
  ],
};

test('without a filter all is shown', () => {
  expect(texts(chunk, '')).toEqual(['life', 'loading', 'no room', 'plain']);
});

test('a filter picks lines, by their text or their request', () => {
  expect(texts(chunk, 'load')).toEqual(['loading']);
  expect(texts(chunk, '5f2a90c1')).toEqual(['no room']);
});

test('a level leaves out what is below it, and nothing that has none', () => {
  expect(texts(chunk, '', 'WARNING')).toEqual(['life', 'no room', 'plain']);
});

test('the same chunk is shown by the same object', () => {
  const select = selection(null, 'DEBUG');
  expect(select(chunk)).toBe(select(chunk));
});

test('marks are told of the text', () => {
  const { rows } = selection(filterOf('room'), 'DEBUG')(chunk);
  expect(rows[0]!.marks).toEqual([[3, 7]]);
});

test('long lines take several of the screen where they are wrapped', () => {
  const shown = selection(null, 'DEBUG')({ key: 1, items: [line(1, 'x'.repeat(25)), line(2, 'a\nb')] });
  expect(linesOf(shown, null)).toBe(3);
  expect(linesOf(shown, 10)).toBe(5);
  expect(shown.longest).toBe(25);
});
