import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { clock } from './clock.svelte';

const HERE = 1_700_000_000_400; // milliseconds

/** An answer that took `took` milliseconds, of a service whose clock is `ahead` milliseconds before this one. */
function answered(ahead: number, took = 20): void {
  const came = Date.now();
  clock.heard({ sent: came - took, date: Math.floor((came - took / 2 + ahead) / 1000) * 1000, came });
}

beforeEach(() => {
  vi.useFakeTimers({ now: HERE, toFake: ['Date'] });
  clock.reset();
});

afterEach(() => void vi.useRealTimers());

test('clocks that agree to the second are left as they are', () => {
  answered(0);
  answered(300);
  expect(clock.now).toBe(HERE / 1000);
});

test('the clock of the service counts, not that of the browser', () => {
  answered(-600_000);
  expect(Math.abs(clock.now - (HERE / 1000 - 600))).toBeLessThan(1.1);
  expect(clock.here).toBe(HERE / 1000);
});

test('it never goes back and forth between answers, and gets nearer with each', () => {
  const ahead = 90_700;
  let before = 0;
  for (let at = 0; at < 10; at += 1) {
    vi.setSystemTime(HERE + at * 1130);
    answered(ahead);
    const offset = clock.now - clock.here;
    expect(offset).toBeGreaterThanOrEqual(before);
    before = offset;
  }
  expect(Math.abs(before - ahead / 1000)).toBeLessThan(0.2);
});

test('an answer that took long says little', () => {
  answered(0, 30_000);
  expect(clock.now).toBe(clock.here);
});
