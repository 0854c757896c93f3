import { afterEach, beforeEach, expect, test, vi, type MockInstance } from 'vitest';

import { feed } from '../state/feed.svelte';
import { follow } from './following';
import { model } from './testing';

const PAUSE = 2000; // milliseconds

let tell: (kind: string, data?: object) => void;
let refresh: MockInstance<typeof feed.refresh>;
let end: () => void;

beforeEach(() => {
  vi.useFakeTimers();
  const listeners = new Map<string, (data: object) => void>();
  vi.spyOn(feed, 'on').mockImplementation((kind, listener) => {
    listeners.set(kind, listener as (data: object) => void);
    return () => listeners.delete(kind);
  });
  tell = (kind, data = {}) => listeners.get(kind)?.(data);
  refresh = vi.spyOn(feed, 'refresh').mockResolvedValue();
  feed.models = [model({ state: 'ready' })];
  end = follow();
});

afterEach(() => {
  end();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

function hide(hidden: boolean): void {
  vi.spyOn(document, 'hidden', 'get').mockReturnValue(hidden);
  document.dispatchEvent(new Event('visibilitychange'));
}

test('the first request is seen at once, the others of the next seconds together', async () => {
  for (let at = 0; at < 10; at++) tell('request');
  expect(refresh).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(PAUSE - 1);
  expect(refresh).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(refresh).toHaveBeenCalledTimes(2);
  await vi.advanceTimersByTimeAsync(10 * PAUSE);
  expect(refresh).toHaveBeenCalledTimes(2);
});

test('a slow answer is waited for', async () => {
  let answer!: () => void;
  refresh.mockReturnValueOnce(new Promise((resolve) => (answer = resolve)));
  tell('request');
  tell('request');
  await vi.advanceTimersByTimeAsync(3 * PAUSE);
  expect(refresh).toHaveBeenCalledTimes(1);
  answer();
  await vi.advanceTimersByTimeAsync(0);
  expect(refresh).toHaveBeenCalledTimes(2);
});

test('nothing is read while nobody sees the page, and once when somebody does again', async () => {
  hide(true);
  tell('request');
  tell('sample');
  await vi.advanceTimersByTimeAsync(10 * PAUSE);
  expect(refresh).not.toHaveBeenCalled();
  hide(false);
  expect(refresh).toHaveBeenCalledTimes(1);
});

test('a load tells of itself each second, and a service that runs nothing has nothing to tell', () => {
  tell('model', { state: 'starting' });
  feed.models = [model()];
  tell('sample');
  expect(refresh).not.toHaveBeenCalled();
  tell('model', { state: 'ready' });
  expect(refresh).toHaveBeenCalledTimes(1);
});

test('who waited for a load is not said to wait any longer: it is read as soon as the model is ready', async () => {
  tell('request');
  await vi.advanceTimersByTimeAsync(PAUSE / 2);
  tell('model', { state: 'ready' });
  expect(refresh).toHaveBeenCalledTimes(2);
  tell('request');
  await vi.advanceTimersByTimeAsync(PAUSE - 1);
  expect(refresh).toHaveBeenCalledTimes(2);
  await vi.advanceTimersByTimeAsync(1);
  expect(refresh).toHaveBeenCalledTimes(3);
});

test('a model that is ready while an answer comes is asked for right behind it', async () => {
  let answer!: () => void;
  refresh.mockReturnValueOnce(new Promise((resolve) => (answer = resolve)));
  tell('request');
  tell('model', { state: 'ready' });
  expect(refresh).toHaveBeenCalledTimes(1);
  answer();
  await vi.advanceTimersByTimeAsync(0);
  expect(refresh).toHaveBeenCalledTimes(2);
});

test('what ends it ends it', async () => {
  tell('request');
  tell('request');
  end();
  await vi.advanceTimersByTimeAsync(10 * PAUSE);
  expect(refresh).toHaveBeenCalledTimes(1);
});
