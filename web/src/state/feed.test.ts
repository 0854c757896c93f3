import type { ServerResponse } from 'node:http';

import { afterEach, expect, test } from 'vitest';

import type { AdminModel } from '../api/types';
import { events, json, serve, until } from '../testing/server';
import { feed } from './feed.svelte';
import { session } from './session.svelte';

const CALLER = { keys_required: true, scopes: ['admin'], key: null, version: '1' };

function model(name: string, more: Partial<AdminModel> = {}): AdminModel {
  return { name, state: 'stopped', pinned: false, ttl: 60, idle_since: null, unloads_at: null, ...more } as AdminModel;
}

function snapshot(...models: AdminModel[]): object {
  return { models, requests: 1, active: null, default: null, pulls: [] };
}

/** A service whose feed is in the hands of the test: `opened` are its connections, in their order. */
async function service(models: AdminModel[] = []): Promise<{ opened: [ServerResponse, string | undefined][] }> {
  const opened: [ServerResponse, string | undefined][] = [];
  const base = await serve((request, response) => {
    if (request.url === '/v1/key') json(response, CALLER);
    else if (request.url === '/admin/models') json(response, { models });
    else opened.push([response, request.headers['last-event-id'] as string | undefined]);
  });
  await session.signIn(base, 'key');
  return { opened };
}

afterEach(() => feed.stop());

test('a snapshot, and what changes it', async () => {
  const { opened } = await service();
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', snapshot(model('a'), model('b')), 'boot-1');
  await until(() => feed.models.length === 2);
  expect([feed.state, feed.requests]).toEqual(['live', 1]);
  send('model', { name: 'a', state: 'ready', idle_since: 100 }, 'boot-2');
  send('active', { active: 'a', default: 'b' }, 'boot-3');
  send('request', { id: 'r', model: 'a', state: 'started' }, 'boot-4');
  send('unheard-of', {}, 'boot-5');
  send('removed', { model: 'b' }, 'boot-6');
  await until(() => feed.models.length === 1);
  expect(feed.model('a')).toMatchObject({ state: 'ready', unloads_at: 160, active: true, default: false });
  expect(feed.requests).toBe(2);
});

test('a feed that breaks off is opened again where it was left', async () => {
  const { opened } = await service();
  feed.start();
  await until(() => opened.length === 1);
  events(opened[0]![0])('snapshot', snapshot(model('a')), 'boot-41');
  await until(() => feed.state === 'live');
  opened[0]![0].destroy();
  await until(() => feed.state === 'lost');
  expect(feed.models).toHaveLength(1);
  await until(() => opened.length === 2);
  expect(opened[1]![1]).toBe('boot-41');
  const send = events(opened[1]![0]);
  send('model', { name: 'a', state: 'starting', progress: 0.5 }, 'boot-42');
  await until(() => feed.model('a')?.state === 'starting');
  expect(feed.state).toBe('live');
});

test('a new catalog is read as a whole', async () => {
  const { opened } = await service([model('new')]);
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', snapshot(model('old')), 'boot-1');
  send('catalog', { models: ['new'], default: 'new' }, 'boot-2');
  await until(() => feed.model('new') !== undefined);
  expect(feed.model('old')).toBeUndefined();
});

test('whoever listens hears every event of a kind until it stops', async () => {
  const { opened } = await service();
  const heard: unknown[] = [];
  const stop = feed.on('key', (data) => heard.push(data));
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('key', { id: '1' });
  await until(() => heard.length === 1);
  stop();
  send('key', { id: '2' });
  send('snapshot', snapshot(model('a')));
  await until(() => feed.models.length === 1);
  expect(heard).toEqual([{ id: '1' }]);
});

test('a key that may not see it ends it, and asks again what the key may do', async () => {
  let asked = 0;
  const base = await serve((request, response) => {
    if (request.url === '/v1/key') {
      asked += 1;
      json(response, CALLER);
    } else json(response, { error: 'no' }, 403);
  });
  await session.signIn(base, 'key');
  feed.start();
  await until(() => asked === 2);
  expect(feed.state).toBe('off');
});
