import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { Sample } from '../api/types';
import { serve, tellers } from './doubles';
import { sample } from './fixture';
import { Samples } from './samples.svelte';

const PATH = '/admin/samples?limit=1440';

let tell: ReturnType<typeof tellers>;
let samples: Samples;
let stop: () => void;

beforeEach(() => {
  tell = tellers();
});

afterEach(() => {
  stop();
  vi.restoreAllMocks();
});

async function start(list: Sample[]) {
  const service = serve({ [PATH]: { every: 5, samples: list } });
  samples = new Samples();
  stop = samples.follow();
  await vi.waitFor(() => expect(samples.state).toBe('ready'));
  return service;
}

const times = () => samples.list.map(({ at }) => at);

test('new ones are told of by the feed alone', async () => {
  const { asked } = await start([sample(5)]);
  tell('sample', sample(10));
  tell('sample', sample(15));
  expect(times()).toEqual([5, 10, 15]);
  expect(asked).toHaveLength(1);
});

test('those that were missed are read anew, and none that comes meanwhile is lost', async () => {
  await start([sample(5)]);
  let answer = (_: unknown): void => undefined;
  serve({ [PATH]: new Promise((resolve) => (answer = resolve)) });
  tell('snapshot', {});
  tell('sample', sample(30));
  answer({ every: 5, samples: [sample(5), sample(10), sample(15)] });
  await vi.waitFor(() => expect(times()).toEqual([5, 10, 15, 30]));
});

test('they do not grow without end', async () => {
  await start([]);
  for (let at = 5; at <= 5 * 1500; at += 5) tell('sample', sample(at));
  expect(samples.list).toHaveLength(1440);
  expect(samples.last!.at).toBe(7500);
});
