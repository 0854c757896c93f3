import 'fake-indexeddb/auto';

import { IDBFactory } from 'fake-indexeddb';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { adoptAll } from './adoption';
import { Conversations } from './conversations.svelte';
import { removeAll, removeConversation, removeTurns } from './removal';
import { conversation, head, turn } from './turn.fixture';
import type { Message, Owner } from './types';
import { addWholes, allListed, unwritten } from './wholes';

let open: Conversations[] = [];

/** A tab. */
async function tab(owner?: Owner): Promise<Conversations> {
  const conversations = new Conversations(() => owner ?? null);
  open.push(conversations);
  await conversations.start();
  return conversations;
}

/** The turns that are stored of the conversation that all tests have. */
async function texts({ archive }: Conversations): Promise<Message[]> {
  await archive.writer.flush();
  return archive.storage.words('one');
}

beforeEach(() => {
  vi.stubGlobal('indexedDB', new IDBFactory());
});

afterEach(() => {
  for (const conversations of open) conversations.close();
  open = [];
  vi.unstubAllGlobals();
});

/** With a question and its answer. */
async function withOne(conversations: Conversations, id = 'one'): Promise<void> {
  await addWholes(conversations, [conversation(id)]);
  await conversations.open(id);
}

describe('conversations', () => {
  it('outlive the page', async () => {
    const first = await tab();
    first.add(head('one'));
    first.put('one', turn('a', null, { images: [{ id: 'i', name: 'n', url: 'data:image/png;base64,AA==' }] }));
    first.change('one', { leaf: 'a', title: 'Wool' });
    await first.flush();
    const second = await tab();
    expect(second.find('one')).toMatchObject({ title: 'Wool', leaf: 'a' });
    expect(await second.open('one')).toBe(true);
    expect(second.whole('one')).toEqual(first.whole('one'));
    expect(await second.open('another')).toBe(false);
  });

  it('are listed newest first', async () => {
    const conversations = await tab();
    await addWholes(conversations, [conversation('old', { changed: 1 }), conversation('new', { changed: 2 })]);
    expect(conversations.heads.newestFirst.map(({ id }) => id)).toEqual(['new', 'old']);
    conversations.change('old', { changed: 3 });
    expect(conversations.heads.newestFirst.map(({ id }) => id)).toEqual(['old', 'new']);
  });

  it('write a turn that grows, and its end when the page is left', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const answer = conversations.messages('one')!['one-a']!;
    answer.text += ' More.';
    conversations.grown('one', 'one-a');
    answer.text += ' And more.';
    conversations.grown('one', 'one-a');
    dispatchEvent(new Event('pagehide'));
    const next = await tab();
    await next.open('one');
    expect(next.messages('one')!['one-a']!.text).toBe('Many llamas. More. And more.');
  });

  it('take away a turn with what follows, and bring it back', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const whole = conversations.whole('one');
    const back = removeTurns(conversations, 'one', 'one-q', null);
    await conversations.flush();
    expect(conversations.messages('one')).toEqual({});
    expect(await texts(conversations)).toEqual([]);
    await back();
    await conversations.flush();
    expect(conversations.whole('one')).toEqual(whole);
    expect(await texts(conversations)).toHaveLength(2);
  });

  it('are deleted with their turns, and brought back', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const whole = conversations.whole('one');
    const back = await removeConversation(conversations, 'one');
    expect(await allListed(conversations)).toEqual([]);
    expect(await texts(conversations)).toEqual([]);
    await back();
    await conversations.open('one');
    expect(conversations.whole('one')).toEqual(whole);
  });

  it('forget turns that were written while theirs was deleted', async () => {
    const first = await tab();
    await withOne(first);
    const second = await tab();
    second.tabs.close(); // it does not hear of it
    await second.open('one');
    await removeConversation(first, 'one');
    second.grown('one', 'one-a');
    await second.flush();
    expect((await tab()).heads.all).toEqual([]);
    expect(await texts(first)).toEqual([]);
  });
});

describe('two tabs', () => {
  it('show what the other added, changed, wrote and deleted', async () => {
    const [here, there] = [await tab(), await tab()];
    here.add(head('one'));
    here.put('one', turn('a', null));
    await here.flush();
    await vi.waitFor(() => expect(there.find('one')).toBeDefined());
    await there.open('one');
    here.change('one', { title: 'Renamed' });
    here.put('one', turn('b', 'a', { role: 'assistant', text: 'So' }));
    await here.flush();
    await vi.waitFor(() => expect(there.messages('one')?.b?.text).toBe('So'));
    expect(there.find('one')!.title).toBe('Renamed');
    removeTurns(here, 'one', 'b', 'a');
    await here.flush();
    await vi.waitFor(() => expect(there.messages('one')).not.toHaveProperty('b'));
    await removeConversation(here, 'one');
    await vi.waitFor(() => expect(there.heads.all).toEqual([]));
  });

  it('do not undo what each changed of one conversation', async () => {
    const [here, there] = [await tab(), await tab()];
    await withOne(here);
    await vi.waitFor(() => expect(there.find('one')).toBeDefined());
    here.change('one', { title: 'Mine' });
    there.change('one', { system: 'Theirs' });
    await Promise.all([here.flush(), there.flush()]);
    for (const one of [here, there]) {
      await vi.waitFor(() => expect(one.find('one')).toMatchObject({ title: 'Mine', system: 'Theirs' }));
    }
  });

  it('leave alone the answer that the other reads of but this one writes', async () => {
    const [here, there] = [await tab(), await tab()];
    await withOne(here);
    await vi.waitFor(() => expect(there.find('one')).toBeDefined());
    here.isAnswering = (_, message) => message === 'one-a';
    here.messages('one')!['one-a']!.text = 'Longer than what is written';
    await there.open('one');
    there.put('one', turn('c', 'one-a'));
    await there.flush();
    await vi.waitFor(() => expect(here.messages('one')).toHaveProperty('c'));
    expect(here.messages('one')!['one-a']!.text).toBe('Longer than what is written');
  });
});

describe('of several keys', () => {
  const owner = (key: string | null, service = 'https://box.lan'): Owner => ({ service, key });

  it('each sees what it made, and what was made without a key, at its service', async () => {
    const [first, second, elsewhere] = [
      await tab(owner('k1')),
      await tab(owner('k2')),
      await tab(owner('k1', 'https://other.lan')),
    ];
    first.add(head('mine'));
    await first.flush();
    await addWholes(await tab(owner(null)), [conversation('everyone')]);
    await vi.waitFor(() => expect(second.find('mine')).toBeDefined());
    await vi.waitFor(() => expect(second.heads.newestFirst.map(({ id }) => id)).toEqual(['everyone']));
    await vi.waitFor(() => expect(elsewhere.find('everyone')).toBeDefined());
    expect(elsewhere.heads.newestFirst).toEqual([]);
    expect(second.heads.listed('mine')).toBeUndefined();
    expect((await allListed(first)).map(({ id }) => id).sort()).toEqual(['everyone', 'mine']);
  });

  it('are taken over by another, which they are listed for then in every tab', async () => {
    const [first, second] = [await tab(owner('k1')), await tab(owner('k2'))];
    await addWholes(first, [conversation('one')]);
    await vi.waitFor(() => expect(second.heads.unlisted).toHaveLength(1));
    expect(await adoptAll(second)).toBe(1);
    expect(second.heads.newestFirst.map(({ id }) => id)).toEqual(['one']);
    await vi.waitFor(() => expect(first.heads.unlisted).toHaveLength(1));
    expect((await tab(owner('k2'))).heads.newestFirst).toHaveLength(1);
  });

  it('are deleted together, in every tab', async () => {
    const [first, second] = [await tab(owner('k1')), await tab(owner('k2'))];
    await addWholes(first, [conversation('one')]);
    await addWholes(second, [conversation('two')]);
    await vi.waitFor(() => expect(first.heads.all).toHaveLength(2));
    await vi.waitFor(() => expect(second.heads.all).toHaveLength(2));
    expect(await removeAll(first)).toBe(2);
    await vi.waitFor(() => expect(second.heads.all).toEqual([]));
    expect((await tab()).heads.all).toEqual([]);
    expect(await texts(first)).toEqual([]);
  });
});

describe('where something is wrong with the storage', () => {
  afterEach(() => {
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  function fill(): void {
    vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(() => {
      throw new DOMException('full', 'QuotaExceededError');
    });
  }

  it('tries again by itself, less and less often, until there is room', async () => {
    const conversations = await tab();
    await withOne(conversations);
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    fill();
    conversations.put('one', turn('b', 'one-a', { text: 'kept' }));
    await conversations.flush();
    const put = vi.mocked(IDBObjectStore.prototype.put);
    const before = put.mock.calls.length;
    await vi.advanceTimersByTimeAsync(2000);
    expect(put.mock.calls.length).toBeGreaterThan(before);
    const after = put.mock.calls.length;
    await vi.advanceTimersByTimeAsync(3900);
    expect(put.mock.calls.length).toBe(after);
    vi.restoreAllMocks();
    vi.useRealTimers();
    await conversations.archive.retry();
    expect(conversations.archive.problem).toBeNull();
    expect((await texts(conversations)).map(({ text }) => text)).toContain('kept');
  });

  it('gives away what is not stored, and asks before the page is left', async () => {
    const conversations = await tab();
    await addWholes(conversations, [conversation('one'), conversation('two')]);
    await conversations.open('one');
    const leave = (): boolean => dispatchEvent(new Event('beforeunload', { cancelable: true }));
    expect(leave()).toBe(true);
    fill();
    conversations.put('one', turn('b', 'one-a', { text: 'kept' }));
    await conversations.flush();
    expect(leave()).toBe(false);
    const [whole, ...more] = await unwritten(conversations);
    expect(whole!.messages.b!.text).toBe('kept');
    expect(more).toEqual([]);
    vi.restoreAllMocks();
    await conversations.archive.retry();
    expect(leave()).toBe(true);
    expect(await unwritten(conversations)).toEqual([]);
  });

  it('keeps a turn that is not stored when another tab changes the conversation', async () => {
    const [here, there] = [await tab(), await tab()];
    await withOne(here);
    await vi.waitFor(() => expect(there.find('one')).toBeDefined());
    const write = vi.spyOn(here.archive.storage, 'write').mockRejectedValue(new DOMException('', 'QuotaExceededError'));
    here.put('one', turn('b', 'one-a', { text: 'kept' }));
    await here.flush();
    there.change('one', { title: 'Theirs' });
    await there.flush();
    await vi.waitFor(() => expect(write.mock.calls.length).toBeGreaterThan(1));
    expect(here.messages('one')!.b!.text).toBe('kept');
    write.mockRestore();
    await here.archive.retry();
    await vi.waitFor(() => expect(here.find('one')!.title).toBe('Theirs'));
    await vi.waitFor(() => expect(there.find('one')).toBeDefined());
    expect((await texts(there)).map(({ text }) => text)).toContain('kept');
  });

  it('opens it again where the browser closed it, and writes what only the page had', async () => {
    const conversations = await tab();
    await withOne(conversations);
    await addWholes(conversations, [conversation('cleared')]);
    const broken = conversations.archive.storage;
    broken.close();
    conversations.put('one', turn('b', 'one-a', { text: 'kept' }));
    expect(await conversations.flush()).toBe(false);
    expect(conversations.archive.problem?.help).toBe('retry');
    vi.stubGlobal('indexedDB', new IDBFactory()); // all is gone
    conversations.archive.lost();
    await vi.waitFor(() => expect(conversations.archive.problem).toBeNull());
    expect(conversations.heads.all.map(({ id }) => id)).toEqual(['one']);
    expect((await texts(await tab())).map(({ text }) => text).sort()).toEqual([
      'Many llamas.',
      'What is a herd?',
      'kept',
    ]);
  });

  it('asks the browser once to keep it', async () => {
    const persist = vi.fn(() => Promise.resolve(true));
    vi.stubGlobal('navigator', { storage: { persisted: () => Promise.resolve(false), persist } });
    localStorage.clear();
    const conversations = await tab();
    expect(persist).not.toHaveBeenCalled();
    conversations.add(head('one'));
    await conversations.flush();
    conversations.change('one', { title: 'Wool' });
    await conversations.flush();
    await vi.waitFor(() => expect(persist).toHaveBeenCalledTimes(1));
  });

  it('works without one, and says so', async () => {
    vi.stubGlobal('indexedDB', {
      open: () => {
        throw new DOMException('not here', 'SecurityError');
      },
    });
    const conversations = await tab();
    expect(conversations.archive.kept).toBe(false);
    await withOne(conversations);
    expect(conversations.whole('one')).toEqual(conversation('one'));
    expect(await texts(conversations)).toHaveLength(2);
  });

  it('keeps what does not fit on the page, tells it, and writes it when there is room', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const full = vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(() => {
      throw new DOMException('full', 'QuotaExceededError');
    });
    conversations.put('one', turn('b', 'one-a', { text: 'kept' }));
    expect(await conversations.flush()).toBe(false);
    expect(conversations.archive.problem).toMatchObject({
      help: 'retry',
      text: expect.stringContaining('no room') as string,
    });
    full.mockRestore();
    expect(await conversations.flush()).toBe(true);
    expect(conversations.archive.problem).toBeNull();
    expect((await texts(conversations)).map(({ text }) => text)).toContain('kept');
  });

  it('writes all of an import or nothing', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const bad = conversation('three', { title: (() => 'no data') as unknown as string });
    await expect(addWholes(conversations, [conversation('two'), bad])).rejects.toThrow('could not store');
    expect(conversations.heads.all.map(({ id }) => id)).toEqual(['one']);
    expect((await allListed(conversations)).map(({ id }) => id)).toEqual(['one']);
    expect((await tab()).heads.all.map(({ id }) => id)).toEqual(['one']);
  });

  it('makes way for a newer page, and asks to be reloaded', async () => {
    const conversations = await tab();
    await withOne(conversations);
    await new Promise((resolve, reject) => {
      const opening = indexedDB.open('llamaherd', 99);
      opening.onsuccess = () => resolve(opening.result.close());
      opening.onerror = () => reject(new Error('It was not let in.'));
    });
    expect(conversations.archive.problem?.help).toBe('reload');
    const older = await tab();
    expect(older.archive.problem?.help).toBe('reload');
    expect(older.archive.kept).toBe(false);
  });
});
