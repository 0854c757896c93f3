import { describe, expect, test } from 'vitest';

import type { ModelState, Sample } from '../api/types';
import { byDevice, colorsOf, devicesOf, holdersOf, lacksOf, sharesOf, sumOf } from './memory';
import { details } from './testing';

const GIB = 2 ** 30;

function holder(
  name: string,
  state: ModelState,
  expected: Record<string, number>,
  measured: Record<string, number> = {},
) {
  return { name, state, memory: { expected, measured } };
}

function sample(used: number, total: number, room: number | null): Sample['memory'][string] {
  return { models: 0, used, total, room };
}

describe('what a model holds', () => {
  test('is expected as long as nothing was measured', () => {
    expect(sharesOf(holder('a', 'starting', { gpu0: 4 }), 'gpu0')).toEqual([{ model: 'a', bytes: 4, expected: true }]);
  });

  test('is what was measured, and what it was admitted with beyond that', () => {
    expect(sharesOf(holder('a', 'ready', { gpu0: 5 }, { gpu0: 3 }), 'gpu0')).toEqual([
      { model: 'a', bytes: 3, expected: false },
      { model: 'a', bytes: 2, expected: true },
    ]);
  });

  test('is only what was measured where that is more than expected', () => {
    const shares = sharesOf(holder('a', 'ready', { gpu0: 5 }, { gpu0: 7 }), 'gpu0');
    expect(shares).toEqual([{ model: 'a', bytes: 7, expected: false }]);
  });

  test('is nothing once it has gone, though it is told what it took', () => {
    expect(sharesOf(holder('a', 'stopped', {}, { host: 9 }), 'host')).toEqual([]);
    expect(sharesOf(holder('a', 'failed', {}, { host: 9 }), 'host')).toEqual([]);
  });

  test('is told by model', () => {
    const shares = [holder('a', 'ready', { host: 5 }, { host: 3 }), holder('b', 'starting', { host: 4 })].flatMap(
      (one) => sharesOf(one, 'host'),
    );
    expect(holdersOf(shares)).toEqual([
      { model: 'a', has: 3, more: 2 },
      { model: 'b', has: 0, more: 4 },
    ]);
  });
});

describe('devices', () => {
  test('are summed up over models, and the rest is of others and free', () => {
    const models = [
      holder('a', 'ready', { gpu0: 4 * GIB, host: GIB }, { gpu0: 4 * GIB, host: GIB }),
      holder('b', 'starting', { gpu0: 2 * GIB }),
      holder('gone', 'stopped', {}, { gpu0: 3 * GIB }),
    ];
    const memory = { gpu0: sample(5 * GIB, 16 * GIB, 12 * GIB), host: sample(3 * GIB, 32 * GIB, 20 * GIB) };
    const [host, gpu] = devicesOf(models, memory);
    expect(host).toMatchObject({ device: 'host', models: GIB, others: 2 * GIB, free: 29 * GIB, state: 'fine' });
    expect(gpu).toMatchObject({ device: 'gpu0', models: 6 * GIB, others: GIB, free: 9 * GIB, total: 16 * GIB });
  });

  test('never have less than nothing of others or free', () => {
    // Pages of a mapped file are the model's, and free for the system.
    const [host] = devicesOf([holder('a', 'ready', {}, { host: 6 })], { host: sample(4, 5, 5) });
    expect(host).toMatchObject({ others: 0, free: 0 });
  });

  test('say when they are full', () => {
    const state = (bytes: number, room: number | null): string =>
      devicesOf([holder('a', 'ready', { gpu0: bytes })], { gpu0: sample(0, 200, room) })[0]!.state;
    expect(state(95, 100)).toBe('fine');
    expect(state(96, 100)).toBe('full');
    expect(state(100, 100)).toBe('full');
    expect(state(101, 100)).toBe('over');
    expect(state(101, null)).toBe('fine');
  });

  test('without models are not full, however small the room is', () => {
    expect(devicesOf([], { gpu0: sample(8, 8, 0) })[0]!.state).toBe('fine');
  });

  test('are known by what models hold where there is no sample', () => {
    const devices = devicesOf([holder('a', 'ready', { gpu1: 4, host: 2 })], null);
    expect(devices.map(({ device, models, total }) => [device, models, total])).toEqual([
      ['host', 2, null],
      ['gpu1', 4, null],
    ]);
  });

  test('stand in the order of their numbers, the host first', () => {
    expect(['gpu10', 'gpu2', 'host', 'gpu0'].sort(byDevice)).toEqual(['host', 'gpu0', 'gpu2', 'gpu10']);
  });
});

test('a colour stays with its model while others come and go', () => {
  const names = ['a', 'b', 'c'];
  const all = colorsOf(names.map((name) => holder(name, 'ready', {})));
  const some = colorsOf([holder('a', 'stopped', {}), holder('b', 'ready', {}), holder('c', 'ready', {})]);
  expect(some.get('b')).toBe(all.get('b'));
  expect(some.get('c')).toBe(all.get('c'));
  expect(some.has('a')).toBe(false);
});

test('two running models have different colours as long as there are enough', () => {
  const models = Array.from({ length: 13 }, (_, at) => holder(`m${at}`, at % 6 ? 'stopped' : 'ready', {}));
  expect(new Set(colorsOf(models).values()).size).toBe(3);
});

test('a sum of nothing is not known', () => {
  expect(sumOf({})).toBeNull();
  expect(sumOf(null)).toBeNull();
  expect(sumOf({ host: 1, gpu0: 2 })).toBe(3);
});

test('what lacks is memory, and only where all room together is too small', () => {
  const model = details({ needed: { host: 5, gpu0: 9 }, room: { host: 5, gpu0: 8, models: 1 } });
  expect(lacksOf(model)).toEqual([{ device: 'gpu0', needed: 9, room: 8 }]);
});
