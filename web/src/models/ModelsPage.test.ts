import { fireEvent, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { feed } from '../state/feed.svelte';
import ModelsPage from './ModelsPage.svelte';
import { model, pull } from './testing';

beforeEach(() => {
  // jsdom has no animations.
  Element.prototype.getAnimations ??= () => [];
  Element.prototype.animate ??= () => ({ cancel() {}, finished: Promise.resolve() }) as unknown as Animation;
  vi.stubGlobal('fetch', () => Promise.resolve(Response.json({ samples: [], pulls: [], models: 0 })));
  feed.state = 'live';
  feed.models = [];
  feed.pulls = [];
});

afterEach(() => vi.unstubAllGlobals());

test('without models the page says what to do', async () => {
  render(ModelsPage);
  await fireEvent.click(screen.getAllByRole('button', { name: 'Add a model' })[1]!);
  expect(screen.getByLabelText(/Hub name/)).toBe(document.activeElement);
});

test('before anything is known no model is said to be missing', () => {
  feed.state = 'connecting';
  render(ModelsPage);
  expect(screen.queryByText('No models yet')).toBeNull();
});

test('models and downloads of others show as they come', async () => {
  render(ModelsPage);
  feed.models = [model({ name: 'there', state: 'ready', in_flight: 2 })];
  feed.pulls = [pull({ source: 'org/repo', bytes: 1, total: 4 })];
  expect(await screen.findByText('2 requests in flight')).toBeTruthy();
  expect(screen.getByRole('progressbar').getAttribute('aria-valuenow')).toBe('25');
});

test('a model that can not be used says why, and is not to be loaded', () => {
  feed.models = [model({ name: 'gone', unavailable: 'Its file is missing.' })];
  render(ModelsPage);
  expect(screen.getByText('Its file is missing.')).toBeTruthy();
  expect(screen.getByRole<HTMLButtonElement>('button', { name: 'Load gone' }).disabled).toBe(true);
});

test('the filter for errors leaves the others out', async () => {
  feed.models = [model({ name: 'fine' }), model({ name: 'broken', state: 'failed' })];
  render(ModelsPage);
  await fireEvent.click(screen.getByRole('button', { name: /^Errors/ }));
  expect(screen.getAllByRole('article').map((row) => row.getAttribute('aria-label'))).toEqual(['broken']);
});

test('every mistake of a reload is shown, until one succeeds', async () => {
  render(ModelsPage);
  const refused = { error: { message: 'a: unknown key\nb: not a number' } };
  vi.stubGlobal('fetch', () => Promise.resolve(Response.json(refused, { status: 400 })));
  await fireEvent.click(screen.getByRole('button', { name: 'Reload' }));
  expect(await screen.findByText('a: unknown key')).toBeTruthy();
  expect(screen.getByText('b: not a number')).toBeTruthy();
  vi.stubGlobal('fetch', () => Promise.resolve(Response.json({ models: 3 })));
  await fireEvent.click(screen.getByRole('button', { name: 'Reload' }));
  await vi.waitFor(() => expect(screen.queryByText('a: unknown key')).toBeNull());
});
