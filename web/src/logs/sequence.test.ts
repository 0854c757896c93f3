import { expect, test } from 'vitest';

import { lifeWords, type LogItem } from './items';
import { Sequence } from './sequence';

function lines(sequence: Sequence, ...numbers: number[]): string[] {
  return numbers.flatMap((n) => {
    const text = `line ${n}`;
    return told(sequence.line({ n, text, time: null, level: null, logger: null, request: null, model: null }));
  });
}

function told(items: LogItem[]): string[] {
  return items.map((item) => {
    if (item.kind === 'life') return lifeWords(item);
    return item.kind === 'lost' ? `lost ${item.lost}` : item.text;
  });
}

test('lines before the ones that were asked for are not lost', () => {
  const sequence = new Sequence('model');
  expect(told(sequence.run('a', 7))).toEqual(['Process 7 begins']);
  expect(lines(sequence, 401, 402)).toEqual(['line 401', 'line 402']);
});

test('a jump of the number is told as lost lines', () => {
  const sequence = new Sequence('model');
  sequence.run('a', 7);
  expect(lines(sequence, 1, 5)).toEqual(['line 1', 'lost 3', 'line 5']);
});

test('… but not where some lines are left out on purpose', () => {
  const sequence = new Sequence('service', false);
  sequence.run('a');
  expect(lines(sequence, 1, 5)).toEqual(['line 1', 'line 5']);
});

test('what a new connection tells again of the same run does not come twice', () => {
  const sequence = new Sequence('model');
  sequence.run('a', null);
  lines(sequence, 1, 2, 3);
  expect(told(sequence.run('a', 7))).toEqual([]);
  expect(lines(sequence, 2, 3, 4)).toEqual(['line 4']);
});

test('what was written while there was no connection and is not kept is lost', () => {
  const sequence = new Sequence('service');
  sequence.run('a');
  lines(sequence, 3);
  sequence.run('a');
  expect(lines(sequence, 10)).toEqual(['lost 6', 'line 10']);
});

test('another run counts anew: none of its lines is taken for one of before, and those not kept are told', () => {
  const sequence = new Sequence('service');
  sequence.run('a');
  lines(sequence, 1, 2, 3);
  expect(told(sequence.run('b'))).toEqual(['The service was started again']);
  expect(lines(sequence, 1, 2, 5)).toEqual(['line 1', 'line 2', 'lost 2', 'line 5']);
});

test('another process with the same number as before is another run', () => {
  const sequence = new Sequence('model');
  sequence.run('a', 7);
  lines(sequence, 1, 2);
  expect(told(sequence.run('b', 7))).toEqual(['Process 7 begins']);
  expect(lines(sequence, 1)).toEqual(['line 1']);
});

test('the beginning of what is told of the service is no start of it', () => {
  expect(new Sequence('service').run('a')).toEqual([]);
});
