import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { CaptureState } from '../api/types';
import { Capture } from './capture.svelte';
import { serve, tellers } from './doubles';

const PATH = '/admin/capture';

let tell: ReturnType<typeof tellers>;
let capture: Capture;
let stop: () => void;

beforeEach(() => {
  tell = tellers();
});

afterEach(() => {
  stop();
  vi.restoreAllMocks();
});

const state = (enabled: boolean, captures = 0): CaptureState => ({ enabled, captures, size: 1024, keep: 2 });

async function start(now: CaptureState) {
  const service = serve({ [PATH]: now });
  capture = new Capture();
  stop = capture.follow();
  await vi.waitFor(() => expect(capture.now).toEqual(now));
  return service;
}

test.each(['capture', 'snapshot', 'history'])('what another tab changed is read anew at the event %s', async (kind) => {
  const { answers } = await start(state(true, 2));
  answers[PATH] = state(false);
  tell(kind, {});
  await vi.waitFor(() => expect(capture.now).toEqual(state(false)));
});

test('captures are counted, up to those that are kept', async () => {
  const { asked } = await start(state(true));
  for (const captured of [true, false, true, true]) tell('request', { captured });
  expect(capture.now!.captures).toBe(2);
  expect(asked).toHaveLength(1);
});

test('an answer that was asked for before it was switched is no news', async () => {
  await start(state(false));
  let answer = (_: unknown): void => undefined;
  const { answers } = serve({ [PATH]: new Promise((resolve) => (answer = resolve)) });
  tell('snapshot', {});
  answers[PATH] = state(true);
  await capture.turn(true);
  answer(state(false));
  await Promise.resolve();
  expect(capture.now).toEqual(state(true));
});
