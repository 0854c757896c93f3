import { expect, test } from 'vitest';

import { ago, bytes, device, percent, rate, seconds } from './format';

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.5 KiB'],
  [10 * 1024 ** 2, '10 MiB'],
  [78.6 * 1024 ** 3, '79 GiB'],
  [9.94 * 1024, '9.9 KiB'],
  [9.96 * 1024, '10 KiB'],
  [1023.4 * 1024, '1023 KiB'],
  [1024 ** 2 - 1, '1.0 MiB'],
  [1023.99 * 1024 ** 3, '1.0 TiB'],
  [2000 * 1024 ** 4, '2000 TiB'],
  [-1536, '-1.5 KiB'],
  [NaN, '–'],
  [null, '–'],
])('bytes %s', (size, text) => expect(bytes(size)).toBe(text));

test.each([
  [0, '0 ms'],
  [0.34, '340 ms'],
  [1.25, '1.3 s'],
  [0.9996, '1.0 s'],
  [9.94, '9.9 s'],
  [9.97, '10 s'],
  [59.4, '59 s'],
  [59.6, '1 min 0 s'],
  [59.96, '1 min 0 s'],
  [3599.7, '1 h 0 min'],
  [86_399.8, '1 d 0 h'],
  [-0.2, '0 ms'],
  [Infinity, '–'],
  [185, '3 min 5 s'],
  [7500, '2 h 5 min'],
  [200_000, '2 d 7 h'],
  [undefined, '–'],
])('seconds %s', (duration, text) => expect(seconds(duration)).toBe(text));

test('a rate has the digits that matter', () => {
  expect([0, 21.37, 99.94, 99.97, 1234.5, Infinity, null].map(rate)).toEqual([
    ...['0.0', '21.4', '99.9', '100', '1,235', '–', '–'],
  ]);
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

test('nothing and all are told only where it is that', () => {
  expect([0, 0.001, 0.5, 0.996, 1, 1.204, null].map(percent)).toEqual([
    ...['0 %', '< 1 %', '50 %', '99 %', '100 %', '120 %', '–'],
  ]);
});
