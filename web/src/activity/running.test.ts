import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { ApiError } from '../api/client';
import type { RunningRequest } from '../api/types';
import { serve, tellers } from './doubles';
import { Running } from './running.svelte';

let tell: ReturnType<typeof tellers>;
let running: Running;
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

function request(id: string, changes: Partial<RunningRequest> = {}): RunningRequest {
  return {
    ...{ id, model: 'smol', key: null, route: '/v1/chat/completions', stream: true, started: 1 },
    ...{ state: 'running', leased_at: 1, first_byte_at: 2, bytes: 0, tokens: 0 },
    ...changes,
  };
}

async function start(requests: RunningRequest[]) {
  const service = serve({ '/admin/requests': { requests } });
  running = new Running();
  stop = running.follow();
  await vi.advanceTimersByTimeAsync(0);
  return service;
}

const ids = () => running.list.map(({ id }) => id);

test('nobody is asked while nothing runs', async () => {
  const { asked } = await start([]);
  await vi.advanceTimersByTimeAsync(5000);
  expect(asked).toHaveLength(1);
});

test('what begins is there at once, and is asked for each second until it ends', async () => {
  const { asked, answers } = await start([]);
  tell('request', { ...request('a'), state: 'started' });
  await vi.advanceTimersByTimeAsync(300);
  expect(running.list).toMatchObject([{ id: 'a', state: 'waiting' }]);
  answers['/admin/requests'] = { requests: [request('a', { tokens: 10 })] };
  await vi.advanceTimersByTimeAsync(2000);
  expect(asked).toHaveLength(3);
  expect(running.list).toMatchObject([{ id: 'a', state: 'running', tokens: 10 }]);
  answers['/admin/requests'] = { requests: [] };
  tell('request', { ...request('a'), state: 'ended' });
  await vi.advanceTimersByTimeAsync(5000);
  expect(ids()).toEqual([]);
  expect(asked.length).toBeLessThanOrEqual(4);
});

test('the speed is that between two looks', async () => {
  const { answers } = await start([request('a', { tokens: 10 })]);
  expect(running.list[0]!.speed).toBeNull();
  answers['/admin/requests'] = { requests: [request('a', { tokens: 40 })] };
  await vi.advanceTimersByTimeAsync(1000);
  expect(running.list[0]!.speed).toBeCloseTo(30);
});

test('a page that nobody sees asks for nothing', async () => {
  const { asked } = await start([request('a')]);
  vi.spyOn(document, 'visibilityState', 'get').mockReturnValue('hidden');
  await vi.advanceTimersByTimeAsync(5000);
  expect(asked).toHaveLength(1);
  vi.mocked(Object.getOwnPropertyDescriptor(document, 'visibilityState')!.get!).mockReturnValue('visible');
  document.dispatchEvent(new Event('visibilitychange'));
  expect(asked).toHaveLength(2);
});

test('one that ended on the way of the answer does not come back', async () => {
  await start([]);
  let answer = (_: unknown): void => undefined;
  serve({ '/admin/requests': new Promise((resolve) => (answer = resolve)) });
  tell('snapshot', {});
  tell('request', { ...request('a'), state: 'ended' });
  answer({ requests: [request('a'), request('b')] });
  await vi.advanceTimersByTimeAsync(0);
  expect(ids()).toEqual(['b']);
});

test('two of the same id are two', async () => {
  await start([request('a'), request('a', { started: 2 })]);
  tell('request', { ...request('a'), state: 'ended' });
  await vi.advanceTimersByTimeAsync(300);
  expect(running.list).toMatchObject([{ id: 'a', started: 2 }]);
});

test('a request is cancelled by its id; one that has just ended is none', async () => {
  const { asked, answers } = await start([request('a/b')]);
  answers['/admin/requests/a%2Fb/cancel'] = { cancelled: 2 };
  expect(await running.cancel('a/b')).toBe(2);
  expect(asked).toContain('POST /admin/requests/a%2Fb/cancel');
  answers['/admin/requests/a%2Fb/cancel'] = Promise.reject(new ApiError('No such request.', 404, 'request_not_found'));
  expect(await running.cancel('a/b')).toBe(0);
  await expect(running.cancel('other')).rejects.toThrow('No /admin');
});
