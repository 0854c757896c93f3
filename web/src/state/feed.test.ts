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
  return { models, requests: 1, active: null, default: null, pulls: [], reload: { error: null, at: null } };
}

interface Service {
  /** The connections of the feed, in their order, and from where each goes on. */
  opened: [ServerResponse, string | undefined][];
  /** The questions for all models, where the test answers them. */
  asked: ServerResponse[];
}

/** A service whose feed is in the hands of the test. */
async function service(models: AdminModel[] | null = []): Promise<Service> {
  const opened: Service['opened'] = [];
  const asked: ServerResponse[] = [];
  const base = await serve((request, response) => {
    if (request.url === '/v1/key') json(response, CALLER);
    else if (request.url === '/admin/models' && models === null) asked.push(response);
    else if (request.url === '/admin/models') json(response, { models });
    else opened.push([response, request.headers['last-event-id'] as string | undefined]);
  });
  await session.signIn(base, 'key');
  return { opened, asked };
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

test('what is wrong with the files is known from the beginning, and until they are read', async () => {
  const { opened } = await service();
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', { ...snapshot(), reload: { error: 'a: unknown key', at: 1 } });
  await until(() => feed.reloadError === 'a: unknown key');
  send('reload_failed', { message: 'b: not a number', at: 2 });
  await until(() => feed.reloadError === 'b: not a number');
  send('reloaded', { models: 1 });
  await until(() => feed.reloadError === null);
  send('reload_failed', { message: 'c', at: 3 });
  await until(() => feed.reloadError === 'c');
  send('snapshot', snapshot());
  await until(() => feed.reloadError === null);
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

test('an answer that a later one has overtaken is dropped', async () => {
  const { opened, asked } = await service(null);
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', snapshot(model('a')));
  send('catalog', {});
  await until(() => asked.length === 1);
  send('catalog', {});
  await until(() => asked.length === 2);
  json(asked[1]!, { models: [model('a', { pinned: true })] });
  await until(() => feed.model('a')?.pinned === true);
  const late = settled(asked[0]!);
  json(asked[0]!, { models: [model('a', { pinned: false })] });
  await late;
  expect(feed.model('a')?.pinned).toBe(true);
});

test('what events told while it was asked counts, and it is not asked again for it', async () => {
  const { opened, asked } = await service(null);
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', snapshot(model('a'), model('b')));
  send('model', { name: 'a', state: 'starting' });
  send('catalog', {});
  await until(() => asked.length === 1);
  send('model', { name: 'a', state: 'ready' });
  send('removed', { model: 'b' });
  await until(() => feed.models.length === 1);
  json(asked[0]!, { models: [model('a', { state: 'starting', pinned: true }), model('b'), model('c')] });
  await until(() => feed.model('c') !== undefined);
  expect(feed.models.map(({ name, state, pinned }) => [name, state, pinned])).toEqual([
    ['a', 'ready', true],
    ['c', 'stopped', false],
  ]);
  expect(asked.length).toBe(1);
});

test('an answer that a snapshot has overtaken is dropped', async () => {
  const { opened, asked } = await service(null);
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', snapshot(model('a')));
  send('catalog', {});
  await until(() => asked.length === 1);
  send('snapshot', snapshot(model('new')));
  await until(() => feed.model('new') !== undefined);
  const late = settled(asked[0]!);
  json(asked[0]!, { models: [model('old')] });
  await late;
  expect(feed.models.map(({ name }) => name)).toEqual(['new']);
});

test('what could not be read is read when the feed goes on', async () => {
  const { opened, asked } = await service(null);
  feed.start();
  await until(() => opened.length === 1);
  const send = events(opened[0]![0]);
  send('snapshot', snapshot(model('a')), 'boot-1');
  send('catalog', {}, 'boot-2');
  await until(() => asked.length === 1);
  asked[0]!.destroy();
  opened[0]![0].destroy();
  await until(() => opened.length === 2);
  events(opened[1]![0]);
  await until(() => asked.length === 2);
  json(asked[1]!, { models: [model('b')] });
  await until(() => feed.model('b') !== undefined);
});

test('followed anew with another key it keeps what it knows; stopped it knows nothing', async () => {
  const { opened } = await service();
  feed.start();
  await until(() => opened.length === 1);
  events(opened[0]![0])('snapshot', snapshot(model('a')));
  await until(() => feed.models.length === 1);
  feed.start();
  expect([feed.state, feed.models.length]).toEqual(['connecting', 1]);
  await until(() => opened.length === 2);
  expect(opened[1]![1]).toBeUndefined();
  feed.stop();
  expect([feed.state, feed.models, feed.pulls, feed.requests]).toEqual(['off', [], [], 0]);
});

/** Until the page has taken an answer that is sent now. */
async function settled(response: ServerResponse): Promise<void> {
  await new Promise((resolve) => response.on('finish', resolve));
  // Behind it on the same way: what was sent before has been read.
  await session.client.get('/v1/key');
  await session.client.get('/v1/key');
}
