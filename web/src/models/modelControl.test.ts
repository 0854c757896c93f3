import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Client } from '../api/client';
import type { AdminModel, AdminModelDetails } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { ModelControl } from './modelControl.svelte';
import { outlooks } from './outlooks.svelte';
import { details, model } from './testing';

type Answer = { status: number; body: unknown } | 'never';

let now: AdminModel;
let answers: Record<string, Answer>;
let asked: { path: string; body: unknown }[];

/** What the service gives: what a load would take, and the answers to what is done. */
function prospect(said: Partial<AdminModelDetails>): void {
  answers['/admin/models/org%2Fm'] = { status: 200, body: details({ name: 'org/m', needed: { host: 1 }, ...said }) };
}

function paths(): string[] {
  return asked.map(({ path }) => path);
}

beforeEach(() => {
  now = model({ name: 'org/m' });
  asked = [];
  answers = {
    '/admin/models/org%2Fm/load': { status: 200, body: {} },
    '/admin/models/org%2Fm/unload?wait=false': { status: 202, body: {} },
  };
  outlooks.forget();
  session.client = new Client('http://herd', null);
  vi.stubGlobal('fetch', (url: string, { body, signal }: RequestInit): Promise<Response> => {
    const path = url.replace('http://herd', '');
    asked.push({ path, body: body ? (JSON.parse(body as string) as unknown) : undefined });
    const answer = answers[path]!;
    if (answer !== 'never') return Promise.resolve(Response.json(answer.body, { status: answer.status }));
    return new Promise((_, reject) =>
      signal!.addEventListener('abort', () => reject(new DOMException('It was left.', 'AbortError'))),
    );
  });
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

test('a load that somebody else was first with is not asked about, nor done again', async () => {
  prospect({ would_evict: ['other'] });
  const control = new ModelControl(() => now);
  const pressed = control.pressLoad();
  now = { ...now, state: 'starting' };
  await pressed;
  expect([control.question, paths()]).toEqual([null, ['/admin/models/org%2Fm']]);
});

test('a question is moot when what it asks about was done elsewhere, or can not be done any more', () => {
  const control = new ModelControl(() => now);
  const moot = (said: Partial<AdminModel>): boolean => ((now = model(said)), control.moot);
  expect(moot({})).toBe(false);
  control.question = 'load';
  expect([moot({}), moot({ state: 'ready' }), moot({ unavailable: 'Gone.' })]).toEqual([false, true, true]);
  control.question = 'unload';
  expect([moot({ state: 'ready' }), moot({ state: 'draining' }), moot({})]).toEqual([false, true, true]);
  control.question = 'personality';
  const personalities = ['pirate'];
  expect([moot({ personalities }), moot({ personalities, state: 'ready' }), moot({})]).toEqual([false, false, true]);
});

test('a model for which nothing goes is loaded at once', async () => {
  prospect({ would_evict: [] });
  const control = new ModelControl(() => now);
  await control.pressLoad();
  expect(paths()).toEqual(['/admin/models/org%2Fm', '/admin/models/org%2Fm/load']);
  expect(control.question).toBeNull();
});

test.each([[['other']], [null]])('a load that would evict %s is asked about first', async (would_evict) => {
  prospect({ would_evict });
  const control = new ModelControl(() => now);
  await control.pressLoad();
  expect(control.question).toBe('load');
  expect(paths()).toEqual(['/admin/models/org%2Fm']);
  await control.load();
  expect(paths().at(-1)).toBe('/admin/models/org%2Fm/load');
  expect(control.question).toBeNull();
});

test('a load takes the personality that was chosen', async () => {
  prospect({ would_evict: [] });
  const control = new ModelControl(() => now);
  control.pressPersonality();
  expect(control.question).toBe('personality');
  await control.load('pirate');
  expect(asked.at(-1)).toEqual({ path: '/admin/models/org%2Fm/load', body: { personality: 'pirate' } });
});

test('a load that waits for room can be taken back, and that is no error', async () => {
  prospect({ would_evict: ['other'] });
  answers['/admin/models/org%2Fm/load'] = 'never';
  const control = new ModelControl(() => now);
  const asking = control.load();
  expect([control.waits, control.busy]).toEqual([true, true]);
  await control.stopWaiting();
  await asking;
  expect([control.waits, control.busy, control.error]).toEqual([false, false, null]);
  expect(paths()).toEqual(['/admin/models/org%2Fm/load', '/admin/models/org%2Fm/unload?wait=false']);
});

test('another model that is in the way is unpinned', async () => {
  answers['/admin/models/other/unpin'] = { status: 200, body: {} };
  answers['/admin/models'] = { status: 200, body: { models: [] } };
  await new ModelControl(() => now).pin(false, 'other');
  expect(paths()[0]).toBe('/admin/models/other/unpin');
});

test('what a refused load says stands at the model', async () => {
  prospect({ would_evict: [] });
  answers['/admin/models/org%2Fm/load'] = { status: 503, body: { error: { message: 'It does not fit.' } } };
  const control = new ModelControl(() => now);
  await control.pressLoad();
  expect(control.error).toBe('It does not fit.');
  expect(control.busy).toBe(false);
});

test('a load that has begun holds no connection, and that is no error', async () => {
  prospect({ would_evict: [] });
  answers['/admin/models/org%2Fm/load'] = 'never';
  const control = new ModelControl(() => now);
  const pressed = control.pressLoad();
  await vi.waitFor(() => expect(paths()).toContain('/admin/models/org%2Fm/load'));
  control.moved();
  expect(control.busy).toBe(true);
  now = { ...now, state: 'starting' };
  control.moved();
  await pressed;
  expect([control.busy, control.error]).toEqual([false, null]);
});

test('a model that nobody uses is unloaded at once, one in use after a question', async () => {
  const refresh = vi.spyOn(feed, 'refresh').mockResolvedValue();
  const control = new ModelControl(() => now);
  now = { ...now, state: 'ready', in_flight: 2 };
  await control.pressUnload();
  expect([control.question, paths()]).toEqual(['unload', []]);
  await control.unload();
  expect([control.question, paths()]).toEqual([null, ['/admin/models/org%2Fm/unload?wait=false']]);
  now = { ...now, in_flight: 0 };
  await control.pressUnload();
  expect(paths()).toHaveLength(2);
  expect(refresh).toHaveBeenCalledTimes(1);
});

test('a use that is over, as the service says when it is asked, is no reason to ask', async () => {
  vi.spyOn(feed, 'refresh').mockImplementation(() => {
    now = { ...now, waiting: 0 };
    return Promise.resolve();
  });
  const control = new ModelControl(() => now);
  now = { ...now, state: 'ready', waiting: 1 };
  await control.pressUnload();
  expect([control.question, paths()]).toEqual([null, ['/admin/models/org%2Fm/unload?wait=false']]);
});

test('an outlook is asked for once in a while, and again when models have moved', async () => {
  prospect({ would_evict: [] });
  await Promise.all([outlooks.read('org/m'), outlooks.read('org/m')]);
  expect(paths()).toHaveLength(1);
  outlooks.forget();
  await outlooks.read('org/m');
  expect(paths()).toHaveLength(2);
  expect(outlooks.get('org/m')?.would_evict).toEqual([]);
});

test('an answer that was on its way when models moved is still shown, but not taken for a new one', async () => {
  prospect({ would_evict: ['on its way'] });
  const first = outlooks.read('org/m');
  outlooks.forget();
  await first;
  expect(outlooks.get('org/m')?.would_evict).toEqual(['on its way']);
  await outlooks.read('org/m');
  expect(paths()).toHaveLength(2);
});

test('an answer that was overtaken is dropped', async () => {
  const answer: ((response: Response) => void)[] = [];
  vi.stubGlobal('fetch', () => new Promise<Response>((resolve) => answer.push(resolve)));
  const [first, second] = [outlooks.read('late'), (outlooks.forget(), outlooks.read('late'))];
  answer[1]!(Response.json(details({ would_evict: ['new'] })));
  await second;
  answer[0]!(Response.json(details({ would_evict: ['old'] })));
  await first;
  expect(outlooks.get('late')?.would_evict).toEqual(['new']);
});

test('models that have moved make an outlook old by themselves', async () => {
  prospect({ would_evict: [] });
  feed.models = [model({ name: 'other' })];
  await outlooks.read('org/m');
  feed.models[0]!.state = 'ready';
  await outlooks.read('org/m');
  expect(paths()).toHaveLength(2);
});

test('an outlook that could not be had is asked for anew', async () => {
  answers['/admin/models/org%2Fm'] = { status: 500, body: {} };
  await expect(outlooks.read('org/m')).rejects.toThrow();
  prospect({ would_evict: [] });
  await expect(outlooks.read('org/m')).resolves.toMatchObject({ would_evict: [] });
});
