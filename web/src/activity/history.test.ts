import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { EndedRequest } from '../api/types';
import { serve, tellers } from './doubles';
import { ended } from './fixture';
import { History } from './history.svelte';

const NEWEST = '/admin/requests/history?limit=100';

let tell: ReturnType<typeof tellers>;
let history: History;
let stop: () => void;

beforeEach(() => {
  vi.useFakeTimers();
  tell = tellers();
});

afterEach(() => {
  stop();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

async function start(requests: EndedRequest[], more: Record<string, unknown> = {}) {
  const service = serve({ [NEWEST]: { requests }, '/admin/requests/history': { forgotten: 1 }, ...more });
  history = new History();
  stop = history.follow();
  await vi.advanceTimersByTimeAsync(0);
  return service;
}

async function end(request: EndedRequest): Promise<void> {
  tell('request', { ...request, state: 'ended', status: request.outcome });
  await vi.advanceTimersByTimeAsync(300);
}

const numbers = (requests: readonly EndedRequest[]) => requests.map(({ n }) => n);

test('what ends comes on top', async () => {
  await start([ended(2), ended(1)]);
  tell('request', { id: 'x', state: 'started' });
  await end(ended(3));
  expect(numbers(history.rows)).toEqual([3, 2, 1]);
  expect(history.rows[0]).not.toHaveProperty('state');
});

test('while somebody reads, new ones are held back until they are asked for', async () => {
  await start([ended(1)]);
  history.reading = true;
  await end(ended(2));
  await end(ended(3));
  expect(numbers(history.rows)).toEqual([1]);
  expect(numbers(history.fresh)).toEqual([3, 2]);
  history.release();
  expect(numbers(history.rows)).toEqual([3, 2, 1]);
  expect(history.fresh).toEqual([]);
});

test('they come by themselves when nobody reads any more', async () => {
  await start([ended(1)]);
  history.reading = true;
  await end(ended(2));
  history.reading = false;
  expect(numbers(history.rows)).toEqual([2, 1]);
});

test('a reader is not moved either where all is read anew', async () => {
  const { answers } = await start([ended(1)]);
  history.reading = true;
  answers[NEWEST] = { requests: [ended(3), ended(2), ended(1)] };
  tell('snapshot', {});
  await vi.advanceTimersByTimeAsync(0);
  expect(numbers(history.rows)).toEqual([1]);
  expect(numbers(history.fresh)).toEqual([3, 2]);
});

test('older pages follow until one is not full', async () => {
  const first = Array.from({ length: 100 }, (_, at) => ended(200 - at));
  await start(first, { [`${NEWEST}&before=101`]: { requests: [ended(100)] } });
  expect(history.more).toBe(true);
  await history.older();
  expect(history.rows).toHaveLength(101);
  expect(history.rows.at(-1)!.n).toBe(100);
  expect(history.more).toBe(false);
});

test('a cleared history is empty, here and in the service', async () => {
  const { asked, answers } = await start([ended(1)]);
  answers[NEWEST] = { requests: [] };
  await history.clear();
  expect(asked).toContain('DELETE /admin/requests/history');
  expect(history.rows).toEqual([]);
});

test('when capturing ends, nothing is captured any more', async () => {
  await start([ended(1, { captured: true })]);
  tell('capture', { enabled: true });
  expect(history.rows[0]!.captured).toBe(true);
  tell('capture', { enabled: false });
  expect(history.rows[0]!.captured).toBe(false);
});

test('a history that can’t be read says why', async () => {
  const service = await start([], {});
  delete service.answers[NEWEST];
  stop();
  stop = history.follow();
  await vi.advanceTimersByTimeAsync(0);
  expect(history.state).toBe('failed');
  expect(history.problem).toContain('No /admin');
});
