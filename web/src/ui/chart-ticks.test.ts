import { expect, test } from 'vitest';

import { count, rate } from './format';
import { INCREMENTS, LEAST, moment, sizeLabel, timeIncrements, type Steps } from './chart-ticks';

/** The labels of an axis as uPlot chooses its ticks: the least distance with room for a label. */
function labels(top: number, steps: Steps, label: (value: number, distance: number) => string, room = 0.3): string[] {
  const end = Math.max(top, LEAST[steps]);
  const distance = INCREMENTS[steps].find((one) => one / end >= room)!;
  return Array.from({ length: Math.floor(end / distance) + 1 }, (_, at) => label(at * distance, distance));
}

const TOPS = Array.from({ length: 200 }, (_, at) => 1.13 ** at / 50);

test.each([
  ['any' as const, rate, 1],
  ['whole' as const, count, 1],
  ['bytes' as const, sizeLabel, 1024 ** 2],
])('no two labels of an axis are the same: %s', (steps, label, unit) => {
  const axes = TOPS.filter((top) => top < 1e7).map((top) => labels(top * unit, steps, label));
  expect(axes.filter((axis) => new Set(axis).size < axis.length)).toEqual([]);
  expect(axes.filter((axis) => axis.length < 2)).toEqual([]);
});

test('sizes are round, and all in one unit', () => {
  const gib = 1024 ** 3;
  expect(labels(1.5 * gib, 'bytes', sizeLabel)).toEqual(['0', '0.5 GiB', '1 GiB', '1.5 GiB']);
  expect(labels(78.6 * gib, 'bytes', sizeLabel)).toEqual(['0', '50 GiB']);
  expect(labels(78.6 * gib, 'bytes', sizeLabel, 0.2)).toEqual(['0', '20 GiB', '40 GiB', '60 GiB']);
  expect(labels(gib / 4, 'bytes', sizeLabel)).toEqual(['0', '100 MiB', '200 MiB']);
});

test('a time is told as precisely as ticks are apart, in local time', () => {
  const noon = new Date(2026, 10, 22, 12, 5, 30).getTime() / 1000;
  expect(moment(noon, 30)).toBe('12:05:30');
  expect(moment(noon, 60)).toBe('12:05');
  expect(moment(noon, 86_400)).toContain('22');
  expect(timeIncrements(300)).toContain(30);
  expect(Math.min(...timeIncrements(7 * 86_400))).toBe(86_400);
});
