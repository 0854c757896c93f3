import { fireEvent, render, screen } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { feed } from '../state/feed.svelte';
import { route } from '../state/route.svelte';
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
  feed.reloadError = null;
  localStorage.clear();
  route.parts = ['models'];
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
  expect(screen.getByLabelText('Keep gone loaded').classList).toContain('hidden');
});

test('a download that failed tells what was asked for, and asks for all of it again', async () => {
  const asked: unknown[] = [];
  vi.stubGlobal('fetch', (_: string, { body }: RequestInit) => {
    if (body) asked.push(JSON.parse(body as string));
    return Promise.resolve(Response.json(body ? pull({ id: 'b', created: 1 }) : { pulls: [], samples: [] }));
  });
  const error = { message: 'The hub does not answer.', code: 'download_failed', param: null, choices: [] };
  const ended = Date.now() / 1000;
  feed.pulls = [pull({ quant: 'Q8_0', name: 'mine', mmproj: false, state: 'failed', ended, error })];
  render(ModelsPage);
  const row = screen.getByRole('article', { name: /^Download of/ });
  await fireEvent.click(screen.getByRole('button', { name: 'org/repo:Q8_0' }));
  expect(row.textContent).toContain('named mine');
  expect(row.textContent).toContain('without a projector for images');
  await fireEvent.click(screen.getByRole('button', { name: 'Try again' }));
  expect(asked).toEqual([{ source: 'org/repo', quant: 'Q8_0', name: 'mine', mmproj: false }]);
});

test('the focus goes back to what opened the form', async () => {
  feed.models = [model()];
  feed.pulls = [pull({ state: 'failed', error: { message: 'No.', code: 'x', param: 'source', choices: [] } })];
  render(ModelsPage);
  for (const name of ['Add a model', 'Change what is asked for']) {
    const opener = screen.getByRole('button', { name });
    opener.focus();
    await fireEvent.click(opener);
    await fireEvent.keyDown(screen.getByLabelText(/Hub name/), { key: 'Escape' });
    expect(screen.queryByLabelText(/Hub name/)).toBeNull();
    expect(document.activeElement).toBe(opener);
  }
});

test('when the page has no such model, it shows all, and the focus is in the search', async () => {
  feed.models = [model({ name: 'there' })];
  render(ModelsPage);
  const search = screen.getByLabelText('Find a model');
  await fireEvent.input(search, { target: { value: 'elsewhere' } });
  await fireEvent.click(screen.getByRole('button', { name: 'Show all' }));
  expect(screen.getByRole('article', { name: 'there' })).toBeTruthy();
  expect(document.activeElement).toBe(search);
});

test('an address of no model says so, and one of another name leads on', () => {
  feed.models = [model({ name: 'there', aliases: ['other'] })];
  route.parts = ['models', 'nope'];
  render(ModelsPage);
  expect(screen.getByText(/There is no model nope/)).toBeTruthy();
  route.parts = ['models', 'other'];
  flushSync();
  expect(screen.getByText(/other is another name of/).querySelector('a')!.hash).toBe('#/models/there');
  route.parts = ['models', 'there'];
  flushSync();
  expect(screen.queryByText(/There is no model/)).toBeNull();
});

test('of the samples only the last is asked for', () => {
  const fetch = vi.fn((_: string) => Promise.resolve(Response.json({ samples: [], pulls: [] })));
  vi.stubGlobal('fetch', fetch);
  render(ModelsPage);
  expect(fetch.mock.calls.map(([url]) => url)).toContain('/admin/samples?limit=1');
});

test('the filter for what failed leaves the others out', async () => {
  feed.models = [model({ name: 'fine' }), model({ name: 'broken', state: 'failed' })];
  render(ModelsPage);
  await fireEvent.click(screen.getByRole('button', { name: /^Failed or unusable/ }));
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

test('files that the service refuses are told with a way to mend them, until they are read', async () => {
  render(ModelsPage);
  feed.reloadError = 'a: unknown key\nb: not a number';
  const notice = await screen.findByRole('alert');
  expect([...notice.querySelectorAll('li')].map((line) => line.textContent)).toEqual([
    'a: unknown key',
    'b: not a number',
  ]);
  expect(notice.querySelector('a')!.hash).toBe('#/settings/models');
  const refused = { error: { message: feed.reloadError } };
  vi.stubGlobal('fetch', () => Promise.resolve(Response.json(refused, { status: 400 })));
  await fireEvent.click(screen.getByRole('button', { name: 'Reload' }));
  await vi.waitFor(() => expect(screen.getByRole('button', { name: 'Reload' }).ariaBusy).not.toBe('true'));
  expect(screen.getAllByRole('alert')).toEqual([notice]);
  feed.reloadError = null;
  flushSync();
  expect(notice.isConnected).toBe(false);
});

test('an ended download is a line, which opens to say why', async () => {
  const message = 'https://hub/api: given up after 2 tries: no connection to hub: Name not known';
  const error = { message, code: 'download_failed', param: null, choices: [] };
  feed.pulls = [pull({ state: 'failed', ended: Date.now() / 1000, error })];
  render(ModelsPage);
  expect(screen.queryByText('What the service says')).toBeNull();
  const title = screen.getByRole('button', { name: 'org/repo' });
  expect(title.ariaExpanded).toBe('false');
  await fireEvent.click(title);
  expect(title.ariaExpanded).toBe('true');
  expect(screen.getByText(/^The hub can't be reached/)).toBeTruthy();
  expect(screen.getByText(message).closest('details')).toBeTruthy();
});

test('a download that asks for something shows that to who waits for it, and later to who opens it', async () => {
  const error = {
    message: 'Say which.',
    code: 'invalid_request',
    param: 'quant',
    choices: [{ quant: 'Q8_0', bytes: 1 }],
  };
  const failed = pull({ id: 'a', state: 'failed', ended: Date.now() / 1000, error });
  feed.pulls = [pull({ id: 'a', state: 'resolving' }), { ...failed, id: 'b', source: 'org/other' }];
  render(ModelsPage);
  expect(screen.queryByRole('group', { name: 'Quantisations' })).toBeNull();
  feed.pulls[0] = failed;
  flushSync();
  expect(screen.getAllByRole('group', { name: 'Quantisations' })).toHaveLength(1);
});

test('a dismissed download stays away when the page is opened anew', async () => {
  feed.pulls = [pull({ state: 'done', ended: Date.now() / 1000 })];
  vi.stubGlobal('fetch', () => Promise.resolve(Response.json({ samples: [], pulls: feed.pulls })));
  const { unmount } = render(ModelsPage);
  await fireEvent.click(screen.getByRole('button', { name: 'Dismiss' }));
  unmount();
  render(ModelsPage);
  expect(screen.getByText('Earlier: 1')).toBeTruthy();
  expect(screen.queryByRole('button', { name: 'Dismiss' })).toBeNull();
});
