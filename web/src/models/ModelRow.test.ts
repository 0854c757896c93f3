import { fireEvent, render, screen, waitFor, within } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { AdminModelDetails } from '../api/types';
import { feed } from '../state/feed.svelte';
import { route } from '../state/route.svelte';
import ModelList from './ModelList.svelte';
import { outlooks } from './outlooks.svelte';
import { details, model } from './testing';

let known: Record<string, Partial<AdminModelDetails>>;
let done: [path: string, body: string | null][];

beforeEach(() => {
  known = {};
  done = [];
  outlooks.forget();
  feed.state = 'live';
  route.parts = ['models'];
  vi.stubGlobal('fetch', (path: string, { method, body }: { method: string; body: string | null }) => {
    const name = decodeURIComponent(path.split('/')[3] ?? '');
    if (method === 'POST') done.push([path, body]);
    const found = known[name];
    return Promise.resolve(
      found ? Response.json(details({ name, ...found })) : Response.json({ error: 'It is broken.' }, { status: 500 }),
    );
  });
});

afterEach(() => vi.unstubAllGlobals());

function show(...models: Parameters<typeof model>[0][]): void {
  feed.models = models.map(model);
  render(ModelList);
}

const button = (name: string): HTMLElement => screen.getByRole('button', { name });
const question = (): HTMLElement | null => screen.queryByRole('group', { name: 'Before it is done' });

/** As somebody does with a mouse: the focus comes along. */
async function press(element: HTMLElement): Promise<void> {
  element.focus();
  await fireEvent.click(element);
}

test('an address shows the details of its model, also when it is left and come back to at once', async () => {
  known.one = { path: '/models/one.gguf' };
  route.parts = ['models', 'one'];
  show({ name: 'one' });
  expect(screen.getByText('Loading the details')).toBeTruthy();
  expect(await screen.findByText('/models/one.gguf')).toBeTruthy();
  route.parts = ['models'];
  flushSync();
  expect(screen.queryByText('/models/one.gguf')).toBeNull();
  outlooks.forget();
  route.parts = ['models', 'one'];
  flushSync();
  feed.models[0]!.state = 'starting';
  route.parts = ['models'];
  flushSync();
  route.parts = ['models', 'one'];
  flushSync();
  expect(await screen.findByText('/models/one.gguf')).toBeTruthy();
});

test('details that can not be had say why, and are asked for again', async () => {
  route.parts = ['models', 'lost'];
  show({ name: 'lost' });
  expect(await screen.findByText(/It is broken/)).toBeTruthy();
  expect(screen.queryByText('Loading the details')).toBeNull();
  known.lost = { path: '/models/lost.gguf' };
  await fireEvent.click(button('Try again'));
  expect(await screen.findByText('/models/lost.gguf')).toBeTruthy();
  expect(screen.queryByText(/It is broken/)).toBeNull();
});

test('row and details tell the same memory, as it is now', async () => {
  known.used = { estimate: null, room: { host: 9 * 2 ** 30 } };
  route.parts = ['models', 'used'];
  show({ name: 'used', state: 'ready', memory: { expected: { host: 2 ** 30 }, measured: {} } });
  const table = await screen.findByRole('table');
  feed.models[0]!.memory.measured = { host: 3 * 2 ** 30 };
  flushSync();
  const row = within(table).getByRole('row', { name: /^Takes/ });
  expect(row.textContent).toContain('3.0 GiB');
  expect(within(table).getByRole('row', { name: /^Expected/ }).textContent).toContain('1.0 GiB');
  expect(screen.getAllByText('3.0 GiB')).toHaveLength(2);
});

test('a personality that was chosen and cancelled is neither loaded nor kept', async () => {
  known.one = { would_evict: [] };
  show({ name: 'one', personalities: ['pirate'] });
  const chooser = button('Choose a personality for one');
  await press(chooser);
  await fireEvent.change(screen.getByRole('combobox', { name: /^Personality/ }), { target: { value: 'pirate' } });
  expect(done).toEqual([]);
  await press(button('Cancel'));
  expect(document.activeElement).toBe(chooser);
  await press(chooser);
  expect(screen.getByRole<HTMLSelectElement>('combobox', { name: /^Personality/ }).value).toBe('');
  await press(button('Cancel'));
  await press(button('Load one'));
  await waitFor(() => expect(done).toEqual([['/admin/models/one/load', '{}']]));
});

test('a personality is loaded when that is pressed, and the focus is where it was opened', async () => {
  known.one = { would_evict: [] };
  show({ name: 'one', personalities: ['pirate'] });
  const chooser = button('Choose a personality for one');
  await press(chooser);
  await fireEvent.change(screen.getByRole('combobox', { name: /^Personality/ }), { target: { value: 'pirate' } });
  await press(within(question()!).getByRole('button', { name: 'Load' }));
  expect(done).toEqual([['/admin/models/one/load', '{"personality":"pirate"}']]);
  expect(question()).toBeNull();
  expect(document.activeElement).toBe(chooser);
});

test('a question is told what has changed since it was asked', async () => {
  known.one = { needed: { host: 1 }, would_evict: ['two'] };
  show({ name: 'one' }, { name: 'two', state: 'ready' });
  await press(button('Load one'));
  expect(await screen.findByText(/two will be unloaded for it/)).toBeTruthy();
  known.one = { needed: { host: 1 }, would_evict: null };
  feed.models[1]!.pinned = true;
  expect(await screen.findByText(/two is pinned and stays/)).toBeTruthy();
  expect(button('Unpin two')).toBeTruthy();
  known.one = { needed: { host: 1 }, would_evict: [] };
  feed.models[1]!.state = 'stopped';
  expect(await screen.findByText(/Nothing is unloaded for it/)).toBeTruthy();
});

test('a question that somebody else has answered is closed, and leaves the focus in its row', async () => {
  known.one = { would_evict: ['two'] };
  show({ name: 'one' }, { name: 'two', state: 'ready' });
  const load = button('Load one');
  await press(load);
  await waitFor(() => expect(question()?.contains(document.activeElement)).toBe(true));
  feed.models[0]!.state = 'starting';
  flushSync();
  expect(question()).toBeNull();
  expect(document.activeElement).toBe(load);
  expect(done).toEqual([]);
});

test('a question takes no focus from who went on to something else', async () => {
  known.one = { would_evict: ['two'] };
  show({ name: 'one' }, { name: 'two', state: 'ready' });
  await press(button('Load one'));
  const search = screen.getByLabelText('Find a model');
  search.focus();
  await waitFor(() => expect(question()).toBeTruthy());
  expect(document.activeElement).toBe(search);
});

test('Escape in the search empties it and closes no question; in a question it closes that', async () => {
  known.one = { would_evict: ['two'] };
  show({ name: 'one' }, { name: 'two', state: 'ready' });
  const load = button('Load one');
  await press(load);
  await waitFor(() => expect(question()).toBeTruthy());
  const search = screen.getByLabelText<HTMLInputElement>('Find a model');
  await fireEvent.input(search, { target: { value: 'o' } });
  await fireEvent.keyDown(search, { key: 'Escape' });
  expect(search.value).toBe('');
  expect(question()).toBeTruthy();
  await fireEvent.keyDown(within(question()!).getByRole('button', { name: 'Cancel' }), { key: 'Escape' });
  expect(question()).toBeNull();
  expect(document.activeElement).toBe(load);
});

test('a row tells what its load waits for', async () => {
  known.one = { would_evict: ['two'] };
  show({ name: 'one', waiting: 1 }, { name: 'two', state: 'ready', in_flight: 2 });
  expect(await screen.findByText('Waiting for two to finish 2 requests')).toBeTruthy();
  feed.models[1]!.in_flight = 0;
  expect(await screen.findByText('Waiting for two to unload')).toBeTruthy();
});

test('a pin shows in its state, its picture and a word, and keeps the focus', async () => {
  show({ name: 'one' });
  const pin = button('Keep one loaded');
  const picture = (): string | null => pin.querySelector('svg')!.getAttribute('fill');
  expect([pin.getAttribute('aria-pressed'), picture(), screen.queryByText('pinned')]).toEqual(['false', 'none', null]);
  await press(pin);
  expect(done.map(([path]) => path)).toEqual(['/admin/models/one/pin']);
  expect(document.activeElement).toBe(pin);
  feed.models[0]!.pinned = true;
  flushSync();
  expect([pin.getAttribute('aria-pressed'), picture()]).toEqual(['true', 'currentColor']);
  expect(screen.getByText('pinned')).toBeTruthy();
});

test('the button keeps the focus while its model goes, and does nothing then', async () => {
  show({ name: 'one', state: 'ready' });
  await press(button('Unload one'));
  expect(done).toHaveLength(1);
  feed.models[0]!.state = 'draining';
  flushSync();
  const unload = button('Unload one');
  expect([unload.getAttribute('aria-disabled'), document.activeElement]).toEqual(['true', unload]);
  await fireEvent.click(unload);
  expect(done).toHaveLength(1);
});

test('a model that had to go for another says so in its row', () => {
  show({ name: 'one', evicted: { for: 'two', at: Date.now() / 1000 - 3 } });
  expect(screen.getByText(/^Unloaded [34] s ago for two\. Pin it/)).toBeTruthy();
  feed.models[0]!.state = 'starting';
  flushSync();
  expect(screen.queryByText(/^Unloaded/)).toBeNull();
});
