import { beforeEach, expect, test } from 'vitest';

import { json, serve } from '../testing/server';
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

test('an address that does not answer is told', async () => {
  expect(await session.signIn('http://127.0.0.1:9', 'any')).toBe(false);
  expect(session.phase).toBe('signed-out');
  expect(session.problem).toContain('No answer from http://127.0.0.1:9');
});

test('a key that is refused later ends the session', async () => {
  let right = true;
  const base = await serve((_, response) => (right ? json(response, CALLER) : json(response, { error: 'gone' }, 401)));
  await session.signIn(base, 'key');
  right = false;
  await session.check();
  expect([session.phase, session.caller, session.problem]).toEqual(['signed-out', null, 'gone']);
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

test('signing out forgets the key and not the address', async () => {
  const base = await keyed('right');
  await session.signIn(base, 'right');
  session.signOut();
  expect([session.phase, session.hasKey]).toEqual(['signed-out', false]);
  expect({ ...localStorage }).toEqual({ 'llamaherd.base': base });
});
