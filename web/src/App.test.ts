import { fireEvent, render, screen } from '@testing-library/svelte';
import { tick } from 'svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import App from './App.svelte';
import type { Scope } from './api/types';
import { capturing } from './state/capturing.svelte';
import { route } from './state/route.svelte';
import { session } from './state/session.svelte';

let scopes: Scope[];
/** What a service with one right key answers to any other. */
let refused: string | null;
let away: boolean;

beforeEach(async () => {
  [scopes, refused, away] = [['inference'], null, false];
  vi.stubGlobal('fetch', async (url: string) => {
    if (away) throw new TypeError('Failed to fetch');
    if (url === '/health') return Response.json({ status: 'ok' });
    if (refused) return Response.json({ error: { message: refused } }, { status: 401 });
    return Response.json({ keys_required: true, scopes, key: null, version: '1' });
  });
  localStorage.setItem('llamaherd.key', 'kept');
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  localStorage.clear();
  session.signOut();
  session.phase = 'starting';
});

function at(address: string): void {
  location.hash = address;
  route.parts = address.replace(/^#\//, '').split('/').filter(Boolean);
}

test.each<[string, Scope[], string, string]>([
  ['#/nonsense', ['inference'], 'There is no such page', 'Go to Chat'],
  ['#/models', ['inference'], 'This key is not for Models', 'Go to Chat'],
  ['#/chat/x', ['admin'], 'This key is not for Chat', 'Go to Models'],
])('%s with a key for %j is told, with a way out', async (address, may, title, way) => {
  scopes = may;
  at(address);
  render(App);
  await screen.findByRole('heading', { name: title });
  expect(screen.getByRole('link', { name: way })).toBeTruthy();
  expect(screen.getByRole('link', { name: 'Settings' })).toBeTruthy();
});

test('a key that is refused is asked for above the page, which stays', async () => {
  at('#/nonsense');
  render(App);
  const heading = await screen.findByRole('heading', { name: 'There is no such page' });
  refused = 'It was revoked.';
  await session.client.get('/admin/x').catch(() => undefined);
  const dialog = await screen.findByRole('dialog', { name: 'Sign in again' });
  expect(dialog.textContent).toContain('It was revoked.');
  expect(heading.isConnected).toBe(true);
  refused = null;
  await fireEvent.input(screen.getByLabelText(/API key/), { target: { value: 'newer' } });
  await fireEvent.click(screen.getByRole('button', { name: 'Sign in' }));
  await vi.waitFor(() => expect(screen.queryByRole('dialog')).toBeNull());
  expect(heading.isConnected).toBe(true);
});

test('that requests are captured is told on every page', async () => {
  scopes = ['admin'];
  at('#/nonsense');
  render(App);
  const link = await screen.findByRole('link', { name: 'Activity' });
  capturing.on = true;
  await tick();
  expect(link.textContent).toMatch(/Activity\s*, requests are captured/);
  session.signOut();
  await tick();
  expect(capturing.on).toBe(false);
});

test('signed out, nothing of the page is left', async () => {
  at('#/nonsense');
  render(App);
  const heading = await screen.findByRole('heading', { name: 'There is no such page' });
  session.signOut();
  await tick();
  expect(heading.isConnected).toBe(false);
  expect(screen.getByLabelText(/API key/)).toBeTruthy();
});

test('whoever does not want to wait for the service may enter something else, and it stays typed', async () => {
  away = true;
  render(App);
  await fireEvent.click(await screen.findByRole('button', { name: 'Use another address or key' }, { timeout: 5000 }));
  const field = screen.getByLabelText<HTMLInputElement>(/API key/);
  await fireEvent.input(field, { target: { value: 'typed' } });
  await fireEvent.click(screen.getByRole('button', { name: 'Sign in' }));
  expect((await screen.findByRole('alert')).textContent).toContain('No answer from');
  expect(field.isConnected && field.value).toBe('typed');
  expect(localStorage.getItem('llamaherd.key')).toBe('kept');
});

test('a short loss of the service is not told, a longer one is, over the page', async () => {
  at('#/nonsense');
  render(App);
  await screen.findByRole('heading', { name: 'There is no such page' });
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  away = true;
  await session.check();
  await tick();
  vi.advanceTimersByTime(300);
  await tick();
  expect(screen.queryByText(/The service does not answer. Trying again/)).toBeNull();
  vi.advanceTimersByTime(1200);
  await tick();
  expect(screen.getByText(/The service does not answer. Trying again/)).toBeTruthy();
});
