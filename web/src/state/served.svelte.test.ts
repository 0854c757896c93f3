import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { Client } from '../api/client';
import type { AdminModel, Caller, Scope, ServedModel } from '../api/types';
import { servedModel } from '../testing/served';
import { feed } from './feed.svelte';
import { served } from './served.svelte';
import { session } from './session.svelte';

const model = (id: string, more: Partial<ServedModel> = {}): ServedModel =>
  servedModel(id, { context_length: 2048, tasks: ['chat', 'completion'], ...more });

let models: ServedModel[];
/** Says on GET /status that something changed; ends it. */
let status: { change: () => void; end: () => void } | null;
let asked: string[];
let refuse: boolean;
let leave: () => void;
let keys = 0;

beforeEach(() => {
  models = [
    model('a:b', { aliases: ['short'], personalities: ['pirate', 'x:y'] }),
    model('a:b:fast', { parent: 'a:b' }),
    model('vectors', { tasks: ['embedding'] }),
    model('gone', { unavailable: 'cut off' }),
    model('c'),
  ];
  asked = [];
  status = null;
  refuse = false;
  vi.stubGlobal('fetch', async (url: string, { signal }: RequestInit) => {
    asked.push(url);
    if (refuse && url !== '/v1/key') return Response.json({ error: { message: 'no' } }, { status: 500 });
    if (url === '/v1/key') return Response.json(session.caller);
    if (url === '/v1/models') return Response.json({ data: models });
    if (url === '/health') return Response.json({ default_model: 'c' });
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        status = {
          change: () => controller.enqueue(new TextEncoder().encode('event: message\ndata: {}\n\n')),
          end: () => controller.close(),
        };
        signal?.addEventListener('abort', () => controller.error(signal.reason));
      },
    });
    return new Response(body);
  });
});

afterEach(() => {
  leave();
  session.caller = null;
  feed.state = 'off';
  vi.unstubAllGlobals();
});

async function watch(...scopes: Scope[]): Promise<void> {
  const key = { id: String((keys += 1)) } as Caller['key']; // another one: all is read anew
  session.caller = { keys_required: true, scopes, key, version: '0' };
  leave = $effect.root(() => {
    $effect(() => void [served.models, served.default]);
  });
  flushSync();
  if (!refuse) await vi.waitFor(() => expect(served.loaded).toBe(true));
}

const ids = (): string[] => served.models.map(({ id }) => id);

it('has the models that one can chat with, and the default', async () => {
  await watch('inference');
  expect(served.chat.map(({ id }) => id)).toEqual(['a:b', 'a:b:fast', 'gone', 'c']);
  expect(served.default).toBe('c');
});

it('takes another default where one can not chat with that of the service', async () => {
  models = [model('gone', { unavailable: 'cut off' }), model('a')];
  await watch('inference');
  expect(served.default).toBe('a');
});

it.each([
  ['a:b', 'a:b'],
  ['short', 'a:b'],
  ['a:b:pirate', 'a:b'],
  ['a:b:x:y', 'a:b'],
  ['short:pirate', 'a:b'],
  ['a:b:fast', 'a:b:fast'],
  ['a:b:nobody', undefined],
  ['a', undefined],
  ['', undefined],
])('finds %j', async (name, id) => {
  await watch('inference');
  expect(served.find(name)?.id).toBe(id);
});

it('reads them again when the service says that something changed', async () => {
  await watch('inference');
  models = [model('new')];
  status!.change();
  await vi.waitFor(() => expect(ids()).toEqual(['new']));
});

it('listens again when the service broke off', async () => {
  await watch('inference');
  const before = status!;
  before.end();
  await vi.waitFor(() => expect(status).not.toBe(before), 3000);
  models = [model('new')];
  status!.change();
  await vi.waitFor(() => expect(ids()).toEqual(['new']));
});

it('tries again where they could not be read', async () => {
  refuse = true;
  await watch('inference');
  await vi.waitFor(() => expect(served.error).not.toBeNull());
  expect(served.loaded).toBe(false);
  refuse = false;
  await vi.waitFor(() => expect(served.loaded).toBe(true), 3000);
  expect(served.error).toBeNull();
});

it('takes the states of the feed where the key may follow it', async () => {
  await watch('inference', 'admin');
  expect(asked).not.toContain('/status');
  feed.state = 'live';
  feed.models = [{ name: 'a:b', state: 'ready' } as AdminModel];
  expect(served.find('short')?.state).toBe('ready');
  expect(served.find('a:b:fast')?.state).toBe('ready');
  expect(served.find('c')?.state).toBe('stopped');
});

it('keeps what is known where the key was replaced by a newer one of the same name', async () => {
  await watch('inference');
  refuse = true;
  const before = asked.length;
  session.client = new Client('', 'sk-lh-newer');
  flushSync();
  await vi.waitFor(() => expect(asked.length).toBeGreaterThan(before));
  expect(served.loaded).toBe(true);
  expect(ids()).toContain('c');
});

it('stops when nothing shows them', async () => {
  await watch('inference');
  leave();
  await vi.waitFor(() => expect(() => status!.change()).toThrow());
});
