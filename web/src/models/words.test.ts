import { expect, test } from 'vitest';

import type { LoadError } from '../api/types';
import { details, model } from './testing';
import { amounts, byDefault, eviction, idle, kind, left, list, outlook, place, retry, stage, waitsFor } from './words';

const GIB = 2 ** 30;

function failed(retry_at: number | null): LoadError {
  return { message: 'It failed.', code: null, exit_code: 1, at: 0, retry_at };
}

test('what is counted down has whole seconds, and never less than none', () => {
  expect(left(2.1)).toBe('3 s');
  expect(left(-4)).toBe('0 s');
  expect(left(59.5)).toBe('1 min 0 s');
  expect(left(3725)).toBe('1 h 2 min');
});

test('words are put together as people do it', () => {
  expect([list([]), list(['a']), list(['a', 'b']), list(['a', 'b', 'c'])]).toEqual(['', 'a', 'a and b', 'a, b and c']);
});

test('amounts are of memory only, and of what is needed at all', () => {
  expect(amounts({ host: GIB, gpu0: 2 * GIB, gpu1: 0, models: 1, 'group:x': 2 })).toBe(
    '1.0 GiB of memory and 2.0 GiB of GPU 0',
  );
});

test('a model that loads tells the step, how long it took so far and last time', () => {
  const one = model({ state: 'starting', since: 100 });
  expect(stage(one, 104)).toBe('Starting the engine: 4 s so far');
  expect(stage({ ...one, progress: 0.4, load_seconds: 12 }, 104)).toBe(
    'Loading the weights: 4 s so far, 12 s last time',
  );
  expect(stage({ ...one, progress: 1 }, 104)).toBe('Getting ready: 4 s so far');
});

test('a model that goes or has to wait says why', () => {
  expect(stage(model({ state: 'draining', in_flight: 1 }), 0)).toBe('Finishes 1 request');
  expect(stage(model({ state: 'draining' }), 0)).toBe('About to unload');
  expect(stage(model({ state: 'stopped', waiting: 2 }), 0)).toBe('Waiting for room: 2 requests');
  expect(stage(model({ state: 'stopped' }), 0)).toBeNull();
  expect(stage(model({ state: 'ready', yielding: true }), 0)).toMatch(/^Makes room/);
});

test('the time until a model is unloaded is told only while nobody uses it', () => {
  const one = model({ state: 'ready', unloads_at: 100 });
  expect(idle(one, 40)).toBe('Unloads in 1 min 0 s');
  expect(idle(one, 101)).toBe('Unloads now');
  expect(idle({ ...one, unloads_at: null }, 40)).toBeNull();
  expect(idle({ ...one, state: 'draining' }, 40)).toBeNull();
});

test('when a failed model is tried again depends on whether it is pinned', () => {
  expect(retry(model(), 0)).toBeNull();
  expect(retry(model({ last_error: failed(null) }), 0)).toMatch(/^Not tried again/);
  expect(retry(model({ last_error: failed(10) }), 4)).toBe('Requests may try it again in 6 s.');
  expect(retry(model({ last_error: failed(10) }), 11)).toBe('Tried again at the next request.');
  expect(retry(model({ last_error: failed(10), pinned: true }), 4)).toBe('Tried again in 6 s.');
});

test('a model that had to go says for whom, for ten minutes and as long as it is not loaded', () => {
  const one = model({ evicted: { for: 'smol', at: 100 } });
  expect(eviction(one, 103.9)).toBe('Unloaded 3 s ago for smol. Pin it to keep it loaded.');
  expect(eviction(one, 99)).toMatch(/^Unloaded 0 s ago/);
  expect(eviction({ ...one, pinned: true }, 225)).toBe('Unloaded 2 min ago for smol.');
  expect(eviction(one, 700)).toBeNull();
  expect(eviction({ ...one, state: 'starting' }, 103)).toBeNull();
  expect(eviction(model(), 103)).toBeNull();
});

test('the default model says why it is that', () => {
  expect(byDefault(model({ default: true, active: true }))).toContain('Somebody loaded it last');
  expect(byDefault(model({ default: true }))).toContain('setting model.name');
});

test('where a model runs is its device, or all that it takes something of', () => {
  expect(place(model({ memory: { expected: {}, measured: { host: 1 } } }))).toBeNull();
  expect(place(model({ state: 'ready', device: 'gpu1' }))).toBe('on GPU 1');
  const memory = { expected: { host: 1, gpu0: 0 }, measured: { gpu1: 2 } };
  expect(place(model({ state: 'ready', memory }))).toBe('in memory and on GPU 1');
});

test('who chats is not said to complete as well', () => {
  const served = { tasks: ['chat', 'completion'] } as Parameters<typeof kind>[0];
  expect(kind(served)).toBe('chat');
  expect(kind({ ...served!, tasks: ['embedding'] })).toBe('embeddings');
  expect(kind(undefined)).toBeNull();
});

test('a load that takes nothing from others is not asked about', () => {
  expect(outlook(details({ needed: { host: GIB }, would_evict: [] }), [])).toEqual({
    ask: false,
    pinned: [],
    text: 'It needs 1.0 GiB of memory. Nothing is unloaded for it.',
  });
});

test('a load names those that go for it, and asks', () => {
  expect(outlook(details({ needed: { host: GIB }, would_evict: ['a', 'b'] }), [])).toEqual({
    ask: true,
    pinned: [],
    text: 'It needs 1.0 GiB of memory. a and b will be unloaded for it.',
  });
});

test('a load says that those which go for it may come back, where they are used', () => {
  const others = [
    model({ name: 'a', state: 'ready', in_flight: 2 }),
    model({ name: 'b', state: 'ready', waiting: 1 }),
    model({ name: 'idle', state: 'ready' }),
    model({ name: 'apart', state: 'ready', in_flight: 1 }),
  ];
  const text = (would_evict: string[], more = {}): string =>
    outlook(details({ name: 'new', needed: { host: GIB }, would_evict, ...more }), others).text;
  expect(text(['a', 'idle'])).toContain('a is in use: its next request may unload new again, unless it is pinned.');
  expect(text(['a', 'b'])).toContain('a and b are in use: their next requests may unload new again, unless');
  expect(text(['a'], { pinned: true })).toMatch(/may unload new again\.$/);
  expect(text(['idle'])).not.toContain('in use');
});

test('a load that can not be says what there is, or who is in its way', () => {
  const others = [
    model({ name: 'a', state: 'ready', pinned: true }),
    model({ name: 'b', state: 'starting', pinned: true }),
    model({ name: 'not loaded', pinned: true }),
    model({ name: 'not pinned', state: 'ready' }),
  ];
  const too = outlook(details({ needed: { host: 2 * GIB }, room: { host: GIB }, would_evict: null }), others);
  expect([too.ask, too.pinned]).toEqual([true, []]);
  expect(too.text).toContain('All models together may have 1.0 GiB of memory.');
  const refused = details({ needed: { host: GIB }, room: { host: GIB }, would_evict: null });
  const pinned = outlook(refused, others);
  expect(pinned.pinned).toEqual(['a', 'b']);
  expect(pinned.text).toContain('a and b are pinned and stay.');
  expect(outlook(refused, others.slice(0, 1)).text).toContain('a is pinned and stays.');
});

test('a load that waits names those that it waits for, and what they have to finish', () => {
  const others = [
    model({ name: 'model', state: 'stopped', waiting: 1 }),
    model({ name: 'used', state: 'ready', in_flight: 2 }),
    model({ name: 'idle', state: 'ready' }),
    model({ name: 'apart', state: 'ready', in_flight: 1 }),
  ];
  expect(waitsFor(details({ would_evict: ['used', 'idle'] }), others)).toBe(
    'Waiting for used to finish 2 requests and idle to unload',
  );
  expect(waitsFor(details({ would_evict: [] }), others)).toBeNull();
  const leaving = [...others, model({ name: 'leaving', state: 'draining', in_flight: 1 })];
  expect(waitsFor(details({ would_evict: [] }), leaving)).toBe('Waiting for leaving to finish 1 request');
});
