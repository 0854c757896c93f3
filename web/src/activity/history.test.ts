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

const snapshot = (newest: number, enabled = true) => ({ capture: { enabled }, history: { newest } });
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
  tell('snapshot', snapshot(3));
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

test('a history that another tab cleared is empty', async () => {
  const { answers } = await start([ended(2), ended(1)]);
  history.reading = true;
  answers[NEWEST] = { requests: [] };
  tell('history', { forgotten: 2 });
  expect([history.rows, history.fresh]).toEqual([[], []]);
  await vi.advanceTimersByTimeAsync(300);
  expect(history.rows).toEqual([]);
});

test('an answer from before it was cleared is no news', async () => {
  await start([]);
  let answer = (_: unknown): void => undefined;
  const { answers } = serve({ [NEWEST]: new Promise((resolve) => (answer = resolve)) });
  tell('snapshot', snapshot(2));
  answers[NEWEST] = { requests: [] };
  tell('history', { forgotten: 2 });
  answer({ requests: [ended(2), ended(1)] });
  await vi.advanceTimersByTimeAsync(300);
  expect(history.rows).toEqual([]);
});

test('what was missed is read in one go', async () => {
  const all = Array.from({ length: 450 }, (_, at) => ended(450 - at));
  const { asked } = await start(all.slice(-10), {
    '/admin/requests/history?limit=441': { requests: all.slice(0, 441) },
  });
  tell('snapshot', snapshot(450));
  await vi.advanceTimersByTimeAsync(0);
  expect(numbers(history.rows)).toEqual(numbers(all));
  expect(asked).toHaveLength(2);
});

test('many that end are one change and no question', async () => {
  const { asked } = await start([]);
  for (let n = 1; n <= 5000; n += 1) tell('request', { ...ended(n), state: 'ended' });
  expect(history.rows).toEqual([]);
  await vi.advanceTimersByTimeAsync(300);
  expect(history.rows).toHaveLength(2000);
  expect(history.rows[0]!.n).toBe(5000);
  expect(asked).toHaveLength(1);
});

test('what ends while a page is on its way stays, also where numbers begin anew', async () => {
  await start([ended(2), ended(1)]);
  let answer = (_: unknown): void => undefined;
  serve({ [NEWEST]: new Promise((resolve) => (answer = resolve)) });
  tell('snapshot', snapshot(0));
  await end(ended(1, { started: 9000 }));
  answer({ requests: [] });
  await vi.advanceTimersByTimeAsync(0);
  expect(history.rows).toMatchObject([{ n: 1, started: 9000 }]);
});

test('a time that was chosen is read as far back as it reaches', async () => {
  // Each was there for 10 seconds.
  const all = Array.from({ length: 350 }, (_, at) => ended(350 - at, { started: 1000 + 350 - at }));
  const { asked } = await start(all.slice(0, 100), {
    [`${NEWEST}&before=251`]: { requests: all.slice(100, 200) },
    [`${NEWEST}&before=151`]: { requests: all.slice(200, 300) },
  });
  await history.choose([1175, 1180]);
  expect(numbers(history.shown)).toEqual(numbers(all).filter((n) => n >= 165 && n <= 180));
  expect(asked).toHaveLength(2);
  await history.choose([1160, 1180]);
  expect(asked).toHaveLength(3);
  expect(history.shown.at(-1)!.n).toBe(150);
});

test('when capturing ends, nothing is captured any more', async () => {
  await start([ended(1, { captured: true })]);
  tell('capture', { enabled: true });
  expect(history.rows[0]!.captured).toBe(true);
  tell('capture', { enabled: false });
  expect(history.rows[0]!.captured).toBe(false);
});

test('captures are gone too where capturing ended while the feed was broken', async () => {
  await start([ended(1, { captured: true })]);
  tell('snapshot', snapshot(1, false));
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
