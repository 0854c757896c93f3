import 'fake-indexeddb/auto';

import { IDBFactory } from 'fake-indexeddb';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Conversations } from './conversations.svelte';
import { conversation, head, turn } from './turn.fixture';

let open: Conversations[] = [];

/** A tab. */
async function tab(): Promise<Conversations> {
  const conversations = new Conversations();
  open.push(conversations);
  await conversations.start();
  return conversations;
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
  await conversations.addAll([conversation(id)]);
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
    await conversations.addAll([conversation('old', { changed: 1 }), conversation('new', { changed: 2 })]);
    expect(conversations.newestFirst.map(({ id }) => id)).toEqual(['new', 'old']);
    conversations.change('old', { changed: 3 });
    expect(conversations.newestFirst.map(({ id }) => id)).toEqual(['old', 'new']);
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
    const back = conversations.removeTurns('one', 'one-q', null);
    await conversations.flush();
    expect(conversations.messages('one')).toEqual({});
    expect(await conversations.texts()).toEqual([]);
    back();
    await conversations.flush();
    expect(conversations.whole('one')).toEqual(whole);
    expect(await conversations.texts()).toHaveLength(2);
  });

  it('are deleted with their turns, and brought back', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const whole = conversations.whole('one');
    const back = await conversations.remove('one');
    expect(await conversations.all()).toEqual([]);
    expect(await conversations.texts()).toEqual([]);
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
    await first.remove('one');
    second.grown('one', 'one-a');
    await second.flush();
    expect((await tab()).heads).toEqual([]);
    expect(await first.texts()).toEqual([]);
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
    here.removeTurns('one', 'b', 'a');
    await here.flush();
    await vi.waitFor(() => expect(there.messages('one')).not.toHaveProperty('b'));
    await here.remove('one');
    await vi.waitFor(() => expect(there.heads).toEqual([]));
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
    here.isAnswering = (message) => message === 'one-a';
    here.messages('one')!['one-a']!.text = 'Longer than what is written';
    await there.open('one');
    there.put('one', turn('c', 'one-a'));
    await there.flush();
    await vi.waitFor(() => expect(here.messages('one')).toHaveProperty('c'));
    expect(here.messages('one')!['one-a']!.text).toBe('Longer than what is written');
  });
});

describe('where something is wrong with the storage', () => {
  it('works without one, and says so', async () => {
    vi.stubGlobal('indexedDB', {
      open: () => {
        throw new DOMException('not here', 'SecurityError');
      },
    });
    const conversations = await tab();
    expect(conversations.kept).toBe(false);
    await withOne(conversations);
    expect(conversations.whole('one')).toEqual(conversation('one'));
    expect(await conversations.texts()).toHaveLength(2);
  });

  it('keeps what does not fit on the page, tells it, and writes it when there is room', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const full = vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(() => {
      throw new DOMException('full', 'QuotaExceededError');
    });
    conversations.put('one', turn('b', 'one-a', { text: 'kept' }));
    expect(await conversations.flush()).toBe(false);
    expect(conversations.problem).toMatchObject({ help: 'retry', text: expect.stringContaining('no room') as string });
    full.mockRestore();
    expect(await conversations.flush()).toBe(true);
    expect(conversations.problem).toBeNull();
    expect((await conversations.texts()).map(({ message }) => message.text)).toContain('kept');
  });

  it('writes all of an import or nothing', async () => {
    const conversations = await tab();
    await withOne(conversations);
    const bad = conversation('three', { title: (() => 'no data') as unknown as string });
    await expect(conversations.addAll([conversation('two'), bad])).rejects.toThrow('could not keep');
    expect(conversations.heads.map(({ id }) => id)).toEqual(['one']);
    expect((await conversations.all()).map(({ id }) => id)).toEqual(['one']);
    expect((await tab()).heads.map(({ id }) => id)).toEqual(['one']);
  });

  it('makes way for a newer page, and asks to be reloaded', async () => {
    const conversations = await tab();
    await withOne(conversations);
    await new Promise((resolve, reject) => {
      const opening = indexedDB.open('llamaherd', 99);
      opening.onsuccess = () => resolve(opening.result.close());
      opening.onerror = () => reject(new Error('It was not let in.'));
    });
    expect(conversations.problem?.help).toBe('reload');
    const older = await tab();
    expect(older.problem?.help).toBe('reload');
    expect(older.kept).toBe(false);
  });
});
