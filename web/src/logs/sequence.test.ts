import { expect, test } from 'vitest';

import type { LogItem } from './items';
import { Sequence } from './sequence';

function line(n: number, text = `line ${n}`, time: number | null = null) {
  return { n, text, time, level: null, logger: null, request: null, model: null };
}

function told(items: LogItem[]): string[] {
  return items.map((item) => {
    if (item.kind === 'life') return `life ${item.pid}`;
    return item.kind === 'lost' ? `lost ${item.lost}` : item.text;
  });
}

test('lines before the ones that were asked for are not lost', () => {
  const sequence = new Sequence();
  expect(told([...sequence.life(7), ...sequence.line(line(401)), ...sequence.line(line(402))])).toEqual([
    'life 7',
    'line 401',
    'line 402',
  ]);
});

test('a jump of the number is told as lost lines', () => {
  const sequence = new Sequence();
  sequence.line(line(1));
  expect(told(sequence.line(line(5)))).toEqual(['lost 3', 'line 5']);
});

test('what a new connection tells again does not come twice', () => {
  const sequence = new Sequence();
  sequence.life(7);
  for (const n of [1, 2, 3]) sequence.line(line(n));
  sequence.reconnected();
  expect(told(sequence.life(7))).toEqual([]);
  expect([2, 3, 4].flatMap((n) => told(sequence.line(line(n))))).toEqual(['line 4']);
});

test('what was written while there was no connection and is not kept is lost', () => {
  const sequence = new Sequence();
  sequence.line(line(3));
  sequence.reconnected();
  expect(told(sequence.line(line(10)))).toEqual(['lost 6', 'line 10']);
});

test('another process begins another life', () => {
  const sequence = new Sequence();
  sequence.life(7);
  sequence.line(line(1));
  sequence.reconnected();
  expect(told([...sequence.life(8), ...sequence.line(line(1)), ...sequence.line(line(2))])).toEqual([
    'life 8',
    'line 1',
    'line 2',
  ]);
});

test('a service that was started again is known by what its lines say', () => {
  const sequence = new Sequence();
  for (const n of [1, 2, 3]) sequence.line(line(n, `line ${n}`, 100 + n));
  sequence.reconnected();
  expect(told(sequence.line(line(1, 'line 1', 200)))).toEqual(['life null', 'line 1']);
  expect(told(sequence.line(line(2, 'line 2', 201)))).toEqual(['line 2']);
});

test('a life that begins while one follows has all its lines counted', () => {
  const sequence = new Sequence();
  sequence.life(7);
  sequence.line(line(1));
  expect(told([...sequence.life(8), ...sequence.line(line(3))])).toEqual(['life 8', 'lost 2', 'line 3']);
});

test('a process that begins before the connection breaks is not told of twice', () => {
  const sequence = new Sequence();
  sequence.life(null);
  sequence.reconnected();
  expect(sequence.life(7).length + sequence.line(line(1)).length).toBe(2);
});
