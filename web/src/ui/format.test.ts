import { expect, test } from 'vitest';

import { ago, bytes, device, rate, seconds } from './format';

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.5 KiB'],
  [10 * 1024 ** 2, '10 MiB'],
  [78.6 * 1024 ** 3, '79 GiB'],
  [null, '–'],
])('bytes %s', (size, text) => expect(bytes(size)).toBe(text));

test.each([
  [0, '0 ms'],
  [0.34, '340 ms'],
  [1.25, '1.3 s'],
  [59.6, '1 min 0 s'],
  [185, '3 min 5 s'],
  [7500, '2 h 5 min'],
  [200_000, '2 d 7 h'],
  [undefined, '–'],
])('seconds %s', (duration, text) => expect(seconds(duration)).toBe(text));

test('a rate has the digits that matter', () => {
  expect([rate(0), rate(21.37), rate(1234.5), rate(Infinity), rate(null)]).toEqual(['0.0', '21.4', '1,235', '–', '–']);
});

test('how long ago', () => {
  expect([ago(95, 100), ago(50, 100), ago(0, 3599), ago(0, 7300), ago(0, 200_000), ago(null, 1)]).toEqual([
    'just now',
    '50 s ago',
    '59 min ago',
    '2 h ago',
    '2 d ago',
    '–',
  ]);
});

test('devices by names for people', () => {
  expect([device('host'), device('gpu11'), device('tpu')]).toEqual(['Memory', 'GPU 11', 'tpu']);
});
