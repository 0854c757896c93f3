import { expect, test } from 'vitest';

import { sample } from './fixture';
import { continued, devicesOf, lately, timelineOf } from './series';

test('a new sample goes to the end, and the oldest goes', () => {
  const list = [sample(5), sample(10)];
  expect(continued(list, sample(15), 2).map(({ at }) => at)).toEqual([10, 15]);
});

test('a sample that is there already changes nothing', () => {
  expect(continued([sample(5), sample(10)], sample(10), 9).map(({ at }) => at)).toEqual([5, 10]);
});

test('only the last seconds are shown', () => {
  expect(lately([sample(5), sample(10), sample(15)], 5, 15).map(({ at }) => at)).toEqual([10, 15]);
});

test('a line breaks where samples are missing', () => {
  const timeline = timelineOf([sample(5, { running: 1 }), sample(10, { running: 2 }), sample(60, { running: 3 })], 5);
  expect(timeline.times).toEqual([5, 10, 15, 60]);
  expect(timeline.values(({ running }) => running)).toEqual([1, 2, null, 3]);
});

test('a sample a little late breaks no line, and a device that is not there is a gap', () => {
  const timeline = timelineOf([sample(5), sample(12, { memory: {} })], 5);
  expect(timeline.times).toEqual([5, 12]);
  expect(timeline.values(({ memory }) => memory.host?.room)).toEqual([3, null]);
});

test('devices are those of all samples', () => {
  const memory = { host: sample(1).memory.host!, gpu0: sample(1).memory.host! };
  expect(devicesOf([sample(1), sample(2, { memory })])).toEqual(['host', 'gpu0']);
  expect(devicesOf([])).toEqual([]);
});
