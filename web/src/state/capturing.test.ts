import type { ServerResponse } from 'node:http';

import { afterEach, expect, test } from 'vitest';

import { events, json, serve, until } from '../testing/server';
import { capturing } from './capturing.svelte';
import { feed } from './feed.svelte';
import { session } from './session.svelte';

let end: () => void;

afterEach(() => {
  end();
  feed.stop();
});

test('it is known from the snapshot and from each turn, and nothing is once nobody follows', async () => {
  const opened: ServerResponse[] = [];
  const base = await serve((request, response) => {
    if (request.url === '/v1/key') json(response, { keys_required: true, scopes: ['admin'], key: null, version: '1' });
    else opened.push(response);
  });
  await session.signIn(base, 'key');
  end = capturing.follow();
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]!);
  const reload = { error: null, at: null };
  const nothing = { models: [], requests: 0, active: null, default: null, pulls: [], reload };
  send('snapshot', { ...nothing, capture: { enabled: true } });
  await until(() => capturing.on);
  send('capture', { enabled: false });
  await until(() => !capturing.on);
  send('capture', { enabled: true });
  await until(() => capturing.on);
  end();
  expect(capturing.on).toBe(false);
});
