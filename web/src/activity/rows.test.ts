import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Rows } from './rows.svelte';

let rows: Rows;

beforeEach(() => {
  vi.useFakeTimers();
  rows = new Rows(8);
});

afterEach(() => {
  rows.stop();
  vi.useRealTimers();
});

test('there is room for two at least, and for no more than the greatest number', () => {
  rows.want(0);
  expect(rows.now).toBe(2);
  rows.want(30);
  expect(rows.now).toBe(8);
});

test('it grows at once and shrinks ten seconds after the rows have gone', () => {
  rows.want(5);
  expect(rows.now).toBe(5);
  rows.want(0);
  vi.advanceTimersByTime(9999);
  expect(rows.now).toBe(5);
  vi.advanceTimersByTime(1);
  expect(rows.now).toBe(2);
});

test('as many as there were meanwhile still have room, for another while', () => {
  rows.want(8);
  rows.want(3);
  vi.advanceTimersByTime(6000);
  rows.want(6);
  rows.want(3);
  vi.advanceTimersByTime(4000);
  expect(rows.now).toBe(6);
  vi.advanceTimersByTime(10_000);
  expect(rows.now).toBe(3);
});

test('as many as before keep it', () => {
  rows.want(5);
  rows.want(1);
  vi.advanceTimersByTime(9000);
  rows.want(5);
  vi.advanceTimersByTime(60_000);
  expect(rows.now).toBe(5);
});

test('it stays while somebody is in it, and for ten seconds more', () => {
  rows.want(5);
  rows.want(0);
  vi.advanceTimersByTime(9000);
  rows.held = true;
  vi.advanceTimersByTime(60_000);
  expect(rows.now).toBe(5);
  rows.held = false;
  vi.advanceTimersByTime(9999);
  expect(rows.now).toBe(5);
  vi.advanceTimersByTime(1);
  expect(rows.now).toBe(2);
});
