import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Pauses, rest } from './pauses';

beforeEach(() => void vi.useFakeTimers());

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

test('each is about twice the one before, up to ten seconds, until it went well', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const pauses = new Pauses();
  expect(Array.from({ length: 7 }, () => pauses.next())).toEqual([500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  pauses.reset();
  expect(pauses.next()).toBe(500);
});

test('no two pages are in step', () => {
  const random = vi.spyOn(Math, 'random');
  const [least, most] = [0, 1].map((value) => {
    random.mockReturnValue(value);
    return new Pauses().next();
  });
  expect([least, most]).toEqual([375, 625]);
});

test.each<[string, () => void]>([
  ['its time is over', () => vi.advanceTimersByTime(1000)],
  ['the network is back', () => dispatchEvent(new Event('online'))],
  ['somebody looks', () => document.dispatchEvent(new Event('visibilitychange'))],
])('a rest ends when %s', async (_, happen) => {
  const added = counted('addEventListener');
  const removed = counted('removeEventListener');
  const over = vi.fn();
  const resting = rest(1000, new AbortController().signal).then(over);
  await vi.advanceTimersByTimeAsync(999);
  expect(over).not.toHaveBeenCalled();
  happen();
  await resting;
  expect(vi.getTimerCount()).toBe(0);
  expect(removed()).toBe(added());
});

test('a rest that is stopped ends at once, also one that begins then', async () => {
  const stop = new AbortController();
  const resting = rest(1000, stop.signal);
  stop.abort();
  await resting;
  await rest(1000, stop.signal);
  expect(vi.getTimerCount()).toBe(0);
});

/** How often that was called since. */
function counted(name: 'addEventListener' | 'removeEventListener'): () => number {
  const spies = [window, document, AbortSignal.prototype].map((target) => vi.spyOn(target as EventTarget, name));
  return () => spies.reduce((sum, spy) => sum + spy.mock.calls.length, 0);
}
