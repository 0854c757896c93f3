import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Pauses, rest } from './pauses';

beforeEach(() => void vi.useFakeTimers());

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

test('each is about twice the one before, until it went well', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const pauses = new Pauses();
  expect(Array.from({ length: 5 }, () => pauses.next())).toEqual([500, 1000, 2000, 2400, 2400]);
  pauses.reset();
  expect(pauses.next()).toBe(500);
});

test('none is longer than three seconds in the first minute of a loss, and than ten later', () => {
  vi.spyOn(Math, 'random').mockReturnValue(1);
  const pauses = new Pauses();
  const lost = performance.now();
  const longest = { young: 0, old: 0 };
  while (performance.now() < lost + 120_000) {
    const age = performance.now() < lost + 60_000 ? 'young' : 'old';
    const pause = pauses.next();
    longest[age] = Math.max(longest[age], pause);
    vi.advanceTimersByTime(pause);
  }
  expect(longest).toEqual({ young: 3000, old: 10_000 });
  pauses.reset();
  vi.advanceTimersByTime(60_000);
  expect([1, 2, 3, 4, 5].map(() => pauses.next()).at(-1)).toBe(3000);
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

test('who is answered again after a loss ends the rests of all others', async () => {
  const signal = new AbortController().signal;
  const pauses = new Pauses();
  const over = vi.fn();
  const rests = [2000, 3000].map((time) => rest(time, signal).then(over));
  await vi.advanceTimersByTimeAsync(500);
  pauses.reset(); // there was no loss
  await vi.advanceTimersByTimeAsync(0);
  expect(over).not.toHaveBeenCalled();
  pauses.next();
  pauses.reset();
  await Promise.all(rests);
  expect(vi.getTimerCount()).toBe(0);
});

test('… but not before a first pause is over: two that lose it at once do not wake each other without end', async () => {
  const pauses = new Pauses();
  const over = vi.fn();
  const resting = rest(3000, new AbortController().signal).then(over);
  await vi.advanceTimersByTimeAsync(100);
  pauses.next();
  pauses.reset();
  await vi.advanceTimersByTimeAsync(399);
  expect(over).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(1);
  await resting;
  expect(vi.getTimerCount()).toBe(0);
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
