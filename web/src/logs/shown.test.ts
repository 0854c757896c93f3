import { expect, test } from 'vitest';

import type { Chunk } from './chunks';
import { filterOf } from './filter';
import type { LogLine } from './items';
import { daysOf, linesOf, selection } from './shown';

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

test('words may be in the text and in what else is known of a line', () => {
  const of = (typed: string): string[] =>
    texts({ key: 1, items: [line(1, 'POST /v1 200', { model: 'smol' }), line(2, 'POST /v1 200')] }, typed);
  expect(of('smol 200')).toEqual(['POST /v1 200']);
  expect(of('smol 404')).toEqual([]);
});

const noon = (day: number): number => new Date(2026, 10, day, 12).getTime() / 1000;

test('between lines of two days it is told which begins', () => {
  const { rows, lines } = selection(
    null,
    'DEBUG',
  )({
    key: 1,
    items: [
      line(1, 'a', { time: noon(1) }),
      { kind: 'life', key: 2, of: 'service', pid: null },
      line(3, 'b', { time: noon(1) + 1 }),
      line(4, 'c', { time: noon(2) }),
    ],
  });
  expect(rows.map(({ item }) => item.kind)).toEqual(['line', 'life', 'line', 'day', 'line']);
  expect(rows[3]!.item).toMatchObject({ time: noon(2) });
  expect([lines, new Set(rows.map(({ item }) => item.key)).size]).toEqual([3, 5]);
});

test('a chunk begins a day where its first line is of another day than the line before', () => {
  const select = selection(filterOf('x'), 'DEBUG');
  const chunks = [
    [line(1, 'left out', { time: noon(1) }), line(2, 'x', { time: noon(2) })],
    [line(3, 'x')],
    [line(4, 'x', { time: noon(2) }), line(5, 'x', { time: noon(3) })],
    [line(6, 'x', { time: noon(3) })],
    [line(7, 'x', { time: noon(4) })],
  ].map((items) => select({ key: items[0]!.key, items }));
  expect([...daysOf(chunks)]).toEqual([
    [1, noon(2)],
    [7, noon(4)],
  ]);
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
