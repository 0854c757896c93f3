import { expect, onTestFinished, test } from 'vitest';

import { Client } from '../api/client';
import { events, json, serve } from '../testing/server';
import { Follower } from './follower.svelte';
import { asText } from './items';

function followed(base: string, model: string | null, access = true): Follower {
  const follower = new Follower(new Client(base, null), model, access);
  onTestFinished(() => follower.stop());
  follower.start();
  return follower;
}

function serviceLine(n: number, message: string) {
  return { n, time: null, level: null, logger: null, message, request: null, model: null };
}

test('after a restart of the service its lines are neither lost nor told twice', async () => {
  const seen: (string | undefined)[] = [];
  const base = await serve((request, response) => {
    const first = seen.push(request.headers['last-event-id'] as string | undefined) === 1;
    const run = first ? 'aaaaaaaa' : 'bbbbbbbb';
    const send = events(response);
    send('run', { run }, `${run}-0`);
    for (const n of [1, 2]) send('log', serviceLine(n, `${run} ${n}`), `${run}-${n}`);
    if (first) response.end();
  });
  const follower = followed(base, null);
  await expect.poll(() => follower.lines, { timeout: 5000 }).toBe(4);
  expect(seen).toEqual([undefined, 'aaaaaaaa-2']);
  expect(asText(follower.items).split('\n')).toEqual([
    'aaaaaaaa 1',
    'aaaaaaaa 2',
    '--- The service was started again ---',
    'bbbbbbbb 1',
    'bbbbbbbb 2',
    '',
  ]);
});

test('lines of requests are asked for only where they are wanted, and those left out are not called lost', async () => {
  const paths: string[] = [];
  const base = await serve((request, response) => {
    paths.push(request.url!);
    const send = events(response);
    send('run', { run: 'aaaaaaaa' });
    for (const n of [1, 5]) send('log', serviceLine(n, `${n}`));
  });
  const without = followed(base, null, false);
  await expect.poll(() => asText(without.items)).toBe('1\n5\n');
  const all = followed(base, null);
  await expect.poll(() => asText(all.items)).toBe('1\n--- 3 lines were lost ---\n5\n');
  expect(paths).toEqual(['/admin/logs?follow=true&tail=1000&access=false', '/admin/logs?follow=true&tail=1000']);
});

test('a model that is removed while it is followed is told of, what came stays, and it can come back', async () => {
  let there = true;
  let asked = 0;
  const base = await serve((_, response) => {
    asked += 1;
    if (!there) return json(response, { error: { message: 'No such model.', code: 'model_not_found' } }, 404);
    const send = events(response);
    send('life', { model: 'a/b', pid: 7, run: `run${asked}` });
    send('log', { n: 1, line: `of ${asked}` });
    if (asked > 1) return;
    there = false;
    response.end();
  });
  const follower = followed(base, 'a/b');
  await expect.poll(() => follower.missing, { timeout: 5000 }).toBe(true);
  expect([follower.state, follower.problem, follower.lines]).toEqual(['failed', 'No such model.', 1]);
  there = true;
  follower.retry();
  await expect.poll(() => follower.lines).toBe(2);
  expect([follower.state, follower.missing, follower.problem]).toEqual(['live', false, null]);
});

test('what comes while it is paused is held back, and no more than is kept', async () => {
  let send: ReturnType<typeof events>;
  const base = await serve((_, response) => {
    send = events(response);
    send('run', { run: 'aaaaaaaa' });
    send('log', serviceLine(1, 'one'));
  });
  const follower = followed(base, null);
  await expect.poll(() => follower.lines).toBe(1);
  follower.pause();
  send!('log', serviceLine(2, 'two'));
  await expect.poll(() => follower.held).toBe(1);
  expect(follower.lines).toBe(1);
  follower.resume();
  expect([follower.lines, follower.held]).toEqual([2, 0]);
});
