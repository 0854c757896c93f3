import 'fake-indexeddb/auto';

import { flushSync } from 'svelte';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Caller } from '../api/types';
import { session } from '../state/session.svelte';
import { answers } from './answers.svelte';
import { conversations } from './conversations.svelte';
import { drafts } from './drafts.svelte';
import { Tabs } from './tabs';
import { edit, keep, newHead, proceed, regenerate, removeTurn, retry, rewrite, send, show } from './talk';
import { branch } from './tree';
import { endWithKey } from './with-key.svelte';
import type { Head, Message } from './types';

interface Asked {
  model: string;
  messages: { role: string; content: string }[];
}

let asked: Asked[] = [];
let status = 200;

/** Every model says its name. */
beforeEach(async () => {
  asked = [];
  status = 200;
  vi.stubGlobal('fetch', (_: string, { body }: RequestInit) => {
    const request = JSON.parse(body as string) as Asked;
    asked.push(request);
    if (status !== 200) return Promise.resolve(Response.json({ error: { message: 'Not now.' } }, { status }));
    const chunk = { choices: [{ delta: { content: `${request.model}.` }, finish_reason: 'stop' }] };
    return Promise.resolve(new Response(`data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`));
  });
  await conversations.start();
});

afterEach(() => vi.unstubAllGlobals());

/** Say something in a new conversation, and wait for all answers. */
async function begin(fields: Partial<Head> = {}): Promise<string> {
  const head = { ...newHead(), model: 'smol', ...fields };
  send(head, 'Hello there', []);
  await answered(head.id);
  return head.id;
}

async function answered(id: string): Promise<void> {
  await vi.waitFor(() => expect(answers.in(id)).toEqual([]));
}

function shown(id: string): Message[] {
  return branch(conversations.messages(id)!, conversations.find(id)!.leaf);
}

const texts = (id: string): string[] => shown(id).map(({ text }) => text);
const second = { model: 'other', personality: null, system: 'Be brief.', parameters: {} };

describe('a conversation', () => {
  it('begins with a turn, its answer and a title', async () => {
    const id = await begin();
    expect(texts(id)).toEqual(['Hello there', 'smol.']);
    expect(conversations.find(id)).toMatchObject({ title: 'Hello there', named: false });
    expect(answers.said).toEqual({ conversation: id, text: 'Answer complete.' });
  });

  it('goes on with all that was said on the branch that is shown', async () => {
    const id = await begin();
    regenerate(id, shown(id)[1]!, { model: 'other', personality: null });
    await answered(id);
    expect(texts(id)).toEqual(['Hello there', 'other.']);
    send(conversations.find(id)!, 'And?', []);
    await answered(id);
    expect(asked.at(-1)!.messages.map(({ content }) => content)).toEqual(['Hello there', 'other.', 'And?']);
    const first = Object.values(conversations.messages(id)!).find(({ text }) => text === 'smol.')!;
    show(id, first.id);
    expect(texts(id)).toEqual(['Hello there', 'smol.']);
  });

  it('branches where a turn is edited, and is called by it unless somebody named it', async () => {
    const id = await begin();
    edit(id, shown(id)[0]!, 'Good evening', []);
    await answered(id);
    expect(texts(id)).toEqual(['Good evening', 'smol.']);
    expect(conversations.find(id)!.title).toBe('Good evening');
    conversations.change(id, { title: 'Mine', named: true });
    edit(id, shown(id)[0]!, 'Good night', []);
    await answered(id);
    expect(conversations.find(id)!.title).toBe('Mine');
    expect(Object.values(conversations.messages(id)!)).toHaveLength(6);
  });

  it('takes an answer in other words, and keeps that of the model', async () => {
    const id = await begin();
    rewrite(id, shown(id)[1]!, 'In my words');
    expect(texts(id)).toEqual(['Hello there', 'In my words']);
    expect(shown(id)[1]).toMatchObject({ edited: true, stats: { model: 'smol', completionTokens: null } });
    expect(Object.values(conversations.messages(id)!)).toHaveLength(3);
  });

  it('lets a model go on with an answer that was put in other words before it was known whose it was', async () => {
    const id = await begin();
    shown(id)[1]!.stats = null;
    proceed(id, shown(id)[1]!);
    await answered(id);
    expect(asked.at(-1)!.model).toBe('smol');
    expect(shown(id)[1]!.stats).toMatchObject({ model: 'smol', finishReason: 'stop' });
  });

  it('lets the model go on with what it has said', async () => {
    const id = await begin();
    proceed(id, shown(id)[1]!);
    await answered(id);
    expect(asked.at(-1)!.messages.at(-1)).toEqual({ role: 'assistant', content: 'smol.' });
  });

  it('shows the branch beside an answer that is deleted, and brings it back', async () => {
    const id = await begin();
    regenerate(id, shown(id)[1]!, { model: 'other', personality: null });
    await answered(id);
    const back = removeTurn(id, shown(id)[1]!.id);
    expect(texts(id)).toEqual(['Hello there', 'smol.']);
    await back();
    expect(texts(id)).toEqual(['Hello there', 'other.']);
  });
});

describe('an answer that failed', () => {
  it('says why, and is asked for again in its place', async () => {
    status = 503;
    const id = await begin();
    expect(shown(id)[1]).toMatchObject({ text: '', error: 'Not now.' });
    status = 200;
    retry(id, shown(id)[1]!);
    await answered(id);
    expect(shown(id)[1]).toMatchObject({ text: 'smol.', error: null });
    expect(Object.values(conversations.messages(id)!)).toHaveLength(2);
  });
});

describe('two tabs', () => {
  const other = new Tabs();
  afterAll(() => other.close());

  it('do not both ask in one conversation, and each can stop the other', async () => {
    const id = await begin();
    const turns = [{ conversation: id, message: 'theirs' }];
    other.tell('answering', { tab: 'other', turns });
    await vi.waitFor(() => expect(answers.isBusy(id)).toBe(true));
    expect(answers.isElsewhere('theirs')).toBe(true);
    expect(send(conversations.find(id)!, 'Twice', [])).toBe(false);
    regenerate(id, shown(id)[1]!);
    proceed(id, shown(id)[1]!);
    expect(edit(id, shown(id)[0]!, 'Twice', [])).toBe(false);
    expect(rewrite(id, shown(id)[1]!, 'Twice')).toBe(false);
    expect(asked).toHaveLength(1);
    const stopped = new Promise((resolve) => other.on('stop', resolve));
    answers.stop(id);
    expect(await stopped).toEqual({ conversation: id });
    other.tell('answering', { tab: 'other', turns: [] });
    await vi.waitFor(() => expect(answers.isBusy(id)).toBe(false));
    expect(send(conversations.find(id)!, 'Once', [])).toBe(true);
    await answered(id);
  });
});

describe('a key that goes', () => {
  it('takes its answers and drafts with it', async () => {
    endWithKey();
    session.caller = { keys_required: true, scopes: ['inference'], key: null, version: '1' };
    flushSync();
    let aborted = 0;
    vi.stubGlobal('fetch', (_: string, { signal }: RequestInit) => {
      return new Promise((_, reject) => {
        signal!.addEventListener('abort', () => {
          aborted += 1;
          reject(signal!.reason as Error);
        });
      });
    });
    const head = { ...newHead(), model: 'smol' };
    send(head, 'Hello', []);
    drafts.of('new').text = 'secret';
    session.signOut();
    flushSync();
    await answered(head.id);
    expect(aborted).toBe(1);
    expect(shown(head.id)[1]).toMatchObject({ stopped: true, error: null });
    expect(drafts.of('new').text).toBe('');
    expect(localStorage.getItem('llamaherd.of-key.drafts')).toBeNull();
  });
});

describe('a key that is refused', () => {
  it('leaves what was typed to whoever signs in next', () => {
    endWithKey();
    const key = { name: 'one', models: null, requests_per_minute: null, tokens_per_day: null, at_once: null };
    const caller = (id: string): Caller => {
      return { keys_required: true, scopes: ['inference'], key: { id, ...key, expires: null }, version: '1' };
    };
    [session.phase, session.caller] = ['ready', caller('one')];
    flushSync();
    drafts.of('new').text = 'Half a question';
    session.phase = 'signed-out';
    flushSync();
    [session.phase, session.caller] = ['ready', caller('two')];
    flushSync();
    expect(drafts.of('new').text).toBe('Half a question');
    session.signOut();
    flushSync();
    expect(drafts.of('new').text).toBe('');
  });
});

describe('two models side by side', () => {
  it('both answer, each as it was set up, until one is kept', async () => {
    const id = await begin({ second });
    expect(asked.map(({ model, messages }) => [model, messages[0]!.role])).toEqual([
      ['smol', 'user'],
      ['other', 'system'],
    ]);
    const [, right] = conversations.find(id)!.pair!;
    keep(id, conversations.messages(id)![right]!);
    expect(conversations.find(id)!.pair).toBeNull();
    expect(texts(id)).toEqual(['Hello there', 'other.']);
  });

  it.each([0, 1])('stay so where side %i is answered anew, or put in other words', async (side) => {
    const id = await begin({ second });
    const before = conversations.find(id)!.pair!;
    regenerate(id, conversations.messages(id)![before[side]!]!);
    await answered(id);
    const { pair, leaf } = conversations.find(id)!;
    expect(pair![1 - side]).toBe(before[1 - side]);
    expect(pair![side]).toBe(leaf);
    expect(conversations.messages(id)![leaf!]).toMatchObject({ text: ['smol.', 'other.'][side] });
    rewrite(id, conversations.messages(id)![leaf!]!, 'In my words');
    expect(conversations.find(id)!.pair![side]).toBe(conversations.find(id)!.leaf);
    expect(conversations.find(id)!.pair).not.toContain(leaf);
  });

  it('are no pair any more once one of them is deleted', async () => {
    const id = await begin({ second });
    const pair = conversations.find(id)!.pair!;
    const back = removeTurn(id, pair[0]);
    expect(conversations.find(id)).toMatchObject({ pair: null, leaf: pair[1] });
    await back();
    expect(conversations.find(id)).toMatchObject({ pair, leaf: pair[0] });
  });
});
