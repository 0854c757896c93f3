import type { ServerResponse } from 'node:http';

import { beforeEach, expect, test, vi } from 'vitest';

import { json, serve, until } from '../testing/server';
import { session } from './session.svelte';

const CALLER = { keys_required: true, scopes: ['inference'], key: null, version: '1' };

function keyed(right: string): Promise<string> {
  return serve((request, response) =>
    request.headers.authorization === `Bearer ${right}`
      ? json(response, CALLER)
      : json(response, { error: { message: 'Incorrect API key provided.', code: 'invalid_api_key' } }, 401),
  );
}

beforeEach(() => {
  localStorage.clear();
  session.signOut();
});

test('the right key is kept, with an address without its end', async () => {
  const base = await keyed('right');
  expect(await session.signIn(`${base}/v1/`, ' right ')).toBe(true);
  expect([session.phase, session.may('inference'), session.may('admin')]).toEqual(['ready', true, false]);
  expect(session.base).toBe(base);
  expect({ ...localStorage }).toEqual({ 'llamaherd.base': base, 'llamaherd.key': 'right' });
});

test('a wrong key is told and not kept', async () => {
  expect(await session.signIn(await keyed('right'), 'wrong')).toBe(false);
  expect([session.phase, session.problem]).toEqual(['signed-out', 'Incorrect API key provided.']);
  expect(localStorage.getItem('llamaherd.key')).toBeNull();
});

test('an address that does not answer is told, and nothing else changes', async () => {
  const before = session.client;
  expect(await session.signIn('http://127.0.0.1:9', 'any')).toBe(false);
  expect([session.phase, session.client]).toEqual(['signed-out', before]);
  expect(session.problem).toContain('No answer from http://127.0.0.1:9');
});

test('while it is tried, the phase is as it was', async () => {
  let asked = false;
  const base = await serve(() => (asked = true));
  void session.signIn(base, 'key');
  await until(() => asked);
  expect(session.phase).toBe('signed-out');
});

test('what is no address is told without asking', async () => {
  expect(await session.signIn('gpu-box:8443', 'any')).toBe(false);
  expect(session.problem).toContain('https://gpu-box:8443');
});

test.each([
  [404, { error: { message: 'Unknown request URL.' } }],
  [200, { ollama: true }],
  [200, null],
])('an address of something else is told: %s %j', async (status, body) => {
  const base = await serve((_, response) => json(response, body, status));
  expect(await session.signIn(base, 'any')).toBe(false);
  expect(session.problem).toContain(`Something answers at ${base}, but not as llamaherd does.`);
});

test('a key that is refused later: a new one is asked for, what is known stays, and it is sent no more', async () => {
  let right = true;
  let asked = 0;
  const base = await serve((_, response) => {
    asked += 1;
    if (right) json(response, CALLER);
    else json(response, { error: 'gone' }, 401);
  });
  await session.signIn(base, 'key');
  right = false;
  await expect(session.client.get('/admin/models')).rejects.toThrow('gone');
  await until(() => session.phase === 'signed-out');
  expect([session.caller, session.problem, asked]).toEqual([CALLER, 'gone', 3]);
  await expect(session.client.get('/admin/models')).rejects.toThrow('gone');
  expect(asked).toBe(3);
  right = true;
  expect(await session.signIn(base, 'newer')).toBe(true);
  expect([session.phase, session.problem]).toEqual(['ready', null]);
});

test('a service that is away for a while is asked again, and what is known stays', async () => {
  let away = false;
  const base = await serve((_, response) => (away ? response.destroy() : json(response, CALLER)));
  await session.signIn(base, 'key');
  away = true;
  await session.check();
  expect([session.phase, session.caller]).toEqual(['unreachable', CALLER]);
  away = false;
  await expect.poll(() => session.phase, { timeout: 5000 }).toBe('ready');
});

test('whoever stands before a service that is down does not end the session', async () => {
  let away = false;
  const base = await serve((_, response) => (away ? json(response, {}, 502) : json(response, CALLER)));
  await session.signIn(base, 'key');
  away = true;
  await session.check();
  expect([session.phase, session.caller]).toEqual(['unreachable', CALLER]);
});

test('somebody who does not want to wait is asked, and no late answer takes that away', async () => {
  const open: ServerResponse[] = [];
  let away = false;
  const base = await serve((_, response) => (away ? void open.push(response) : json(response, CALLER)));
  await session.signIn(base, 'key');
  away = true;
  const checked = session.check();
  await until(() => open.length === 1);
  session.ask();
  json(open[0]!, CALLER);
  await checked;
  expect([session.phase, session.hasKey]).toEqual(['signed-out', true]);
  expect(localStorage.getItem('llamaherd.key')).toBe('key');
});

/** As the browser does where another tab has changed what is kept. */
function inAnotherTab(kept: Record<string, string | null>): void {
  for (const [key, value] of Object.entries(kept)) {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
    dispatchEvent(new StorageEvent('storage', { key }));
  }
}

test('another tab has replaced the key: it is used, and what is known stays', async () => {
  const seen: unknown[] = [];
  const base = await serve((request, response) => {
    seen.push(request.headers.authorization);
    json(response, CALLER);
  });
  await session.start();
  await session.signIn(base, 'old');
  const { client, caller } = session;
  inAnotherTab({ 'llamaherd.key': 'new' });
  expect([session.phase, session.caller]).toEqual(['ready', caller]);
  expect(session.client).not.toBe(client);
  await until(() => seen.length === 2);
  expect(seen).toEqual(['Bearer old', 'Bearer new']);
});

test('another tab has signed out: what belonged to the key ends here', async () => {
  await session.signIn(await keyed('right'), 'right');
  inAnotherTab({ 'llamaherd.key': null });
  expect([session.phase, session.caller, session.hasKey]).toEqual(['signed-out', null, false]);
});

test('no tab sends the key of one service to another', async () => {
  const [one, two] = [await keyed('one'), await keyed('two')];
  await session.signIn(one, 'one');
  const told: (string | null)[][] = [];
  const [set, remove] = [Storage.prototype.setItem, Storage.prototype.removeItem].map((method) =>
    vi.spyOn(Storage.prototype, method.name as 'setItem').mockImplementation(function (this: Storage, ...args) {
      method.apply(this, args);
      told.push(['llamaherd.base', 'llamaherd.key'].map((name) => this.getItem(name)));
    }),
  );
  await session.signIn(two, 'two');
  set!.mockRestore();
  remove!.mockRestore();
  expect(told).toEqual([
    [one, null],
    [two, null],
    [two, 'two'],
  ]);
});

test('signing out forgets the key and not the address', async () => {
  const base = await keyed('right');
  await session.signIn(base, 'right');
  session.signOut();
  expect([session.phase, session.hasKey]).toEqual(['signed-out', false]);
  expect({ ...localStorage }).toEqual({ 'llamaherd.base': base });
});
