import { describe, expect, it } from 'vitest';

import { branch } from '../tree';
import type { Conversation } from '../types';
import { fromForeign } from './read';

const PNG = 'data:image/png;base64,iVBORw0K';

const openWebui = {
  id: 'aaaa-1',
  user_id: 'u',
  title: 'Herds',
  created_at: 1_700_000_000,
  updated_at: 1_700_000_100,
  chat: {
    title: 'Herds',
    models: ['qwen'],
    params: { system: 'Be brief.' },
    history: {
      currentId: 'm3',
      messages: {
        m1: {
          id: 'm1',
          parentId: null,
          childrenIds: ['m2', 'm3'],
          role: 'user',
          content: 'What is a herd?',
          timestamp: 1_700_000_001,
          files: [
            { type: 'image', url: PNG },
            { type: 'image', url: 'https://elsewhere.example/x.png' },
            { type: 'file', id: 'f' },
          ],
        },
        m2: { id: 'm2', parentId: 'm1', role: 'assistant', content: 'Cows.', timestamp: 1_700_000_002, model: 'qwen' },
        m3: {
          id: 'm3',
          parentId: 'm1',
          role: 'assistant',
          modelName: 'Qwen 3',
          content:
            '<details type="reasoning" done="true" duration="2">\n<summary>Thought for 2 seconds</summary>\n' +
            '&gt; a &lt; b\n</details>\nLlamas.',
          timestamp: 1_700_000_003,
        },
      },
    },
  },
};

const llamaCpp = {
  conv: { id: 'conv-2', name: 'Wool', lastModified: 1_700_000_000_500, currNode: '1700000000003' },
  messages: [
    {
      convId: 'conv-2',
      id: 1_700_000_000_000,
      type: 'root',
      role: 'system',
      content: '',
      parent: -1,
      children: [1],
      timestamp: 1_700_000_000_000,
    },
    {
      id: 1_700_000_000_001,
      type: 'text',
      role: 'system',
      content: 'Be kind.',
      parent: 1_700_000_000_000,
      timestamp: 1_700_000_000_001,
    },
    {
      id: '1700000000002',
      type: 'text',
      role: 'user',
      content: 'Read this',
      parent: 1_700_000_000_001,
      timestamp: 1_700_000_000_002,
      extra: [
        { type: 'IMAGE', name: 'a.png', base64Url: PNG },
        { type: 'TEXT', name: 'a.py', content: 'a = 1' },
      ],
    },
    {
      id: '1700000000003',
      type: 'text',
      role: 'assistant',
      content: 'It is one.',
      reasoningContent: 'Hm',
      model: 'smol.gguf',
      parent: '1700000000002',
      timestamp: 1_700_000_000_003,
    },
  ],
};

const chatGpt = {
  title: 'Shearing',
  create_time: 1_700_000_000.25,
  update_time: 1_700_000_009,
  conversation_id: 'gpt-3',
  current_node: 'd',
  mapping: {
    root: { id: 'root', message: null, parent: null, children: ['a'] },
    a: {
      id: 'a',
      parent: 'root',
      message: {
        author: { role: 'user' },
        create_time: 1_700_000_001,
        content: { content_type: 'text', parts: ['How?'] },
      },
    },
    b: {
      id: 'b',
      parent: 'a',
      message: { author: { role: 'assistant' }, content: { content_type: 'code', text: 'search()' } },
    },
    c: {
      id: 'c',
      parent: 'b',
      message: { author: { role: 'tool' }, content: { content_type: 'text', parts: ['found'] } },
    },
    d: {
      id: 'd',
      parent: 'c',
      message: {
        author: { role: 'assistant' },
        create_time: 1_700_000_002,
        content: { content_type: 'text', parts: ['With shears.', { image: 1 }] },
        metadata: { model_slug: 'gpt-4o' },
      },
    },
  },
};

function read(file: unknown): Conversation {
  const [conversation, ...more] = fromForeign(file) ?? [];
  expect(more).toEqual([]);
  return conversation!;
}

const shown = ({ messages, leaf }: Conversation): unknown[] =>
  branch(messages, leaf).map(({ role, text, reasoning, stats }) => [role, text, reasoning, stats?.model ?? null]);

describe('chats of other programs', () => {
  it('Open WebUI', () => {
    const conversation = read([openWebui]);
    expect(conversation).toMatchObject({
      id: 'aaaa-1',
      title: 'Herds',
      system: 'Be brief.',
      created: 1_700_000_000_000,
      changed: 1_700_000_100_000,
    });
    expect(shown(conversation)).toEqual([
      ['user', 'What is a herd?', '', null],
      ['assistant', 'Llamas.', 'a < b', 'Qwen 3'],
    ]);
    expect(conversation.messages['m2']).toMatchObject({ parent: 'm1', text: 'Cows.', at: 1_700_000_002_000 });
    expect(conversation.messages['m1']?.images.map(({ url }) => url)).toEqual([PNG]);
  });

  it.each([
    ['one chat', llamaCpp],
    ['several', [llamaCpp]],
  ])("llama.cpp's page: %s", (_, file) => {
    const conversation = read(file);
    expect(conversation).toMatchObject({ id: 'conv-2', title: 'Wool', system: 'Be kind.', changed: 1_700_000_000_500 });
    expect(shown(conversation)).toEqual([
      ['user', 'Read this\n\na.py:\n```py\na = 1\n```\n', '', null],
      ['assistant', 'It is one.', 'Hm', 'smol.gguf'],
    ]);
    expect(branch(conversation.messages, conversation.leaf)[0]?.images).toHaveLength(1);
  });

  it('ChatGPT', () => {
    const conversation = read([chatGpt]);
    expect(conversation).toMatchObject({ id: 'gpt-3', title: 'Shearing', created: 1_700_000_000_250 });
    expect(shown(conversation)).toEqual([
      ['user', 'How?', '', null],
      ['assistant', 'With shears.', '', 'gpt-4o'],
    ]);
  });

  it('leaves out those in which nothing was said', () => {
    const empty = { id: 'x', chat: { title: 'x', history: { messages: {}, currentId: null } } };
    expect(fromForeign([empty, openWebui])?.map(({ id }) => id)).toEqual(['aaaa-1']);
    expect(fromForeign({ conv: { id: 'c' }, messages: [] })).toEqual([]);
  });

  it('shows the newest branch where the file does not say which', () => {
    const history = { ...openWebui.chat.history, currentId: null };
    expect(read([{ ...openWebui, chat: { ...openWebui.chat, history } }]).leaf).toBe('m3');
  });

  it('gives the same each time, so that nothing is there twice', () => {
    expect(fromForeign([openWebui])).toEqual(fromForeign([openWebui]));
    expect(fromForeign([llamaCpp])).toEqual(fromForeign([llamaCpp]));
  });

  it('gives an id that may be none here another', () => {
    const conversation = read([{ ...openWebui, id: '../a/b' }]);
    expect(conversation.id).toMatch(/^[\w-]+$/);
    const messages: unknown = JSON.parse('{"__proto__": {"role": "user", "content": "x", "parentId": null}}');
    const hostile = { chat: { title: 3, history: { messages, currentId: 4 } } };
    const [one] = Object.values(read([hostile]).messages);
    expect(one?.id).toMatch(/^[\w-]+$/);
  });

  it('refuses turns in a circle', () => {
    const turn = (parentId: string) => ({ role: 'user', content: 'x', parentId });
    const looped = { chat: { history: { messages: { a: turn('b'), b: turn('a') }, currentId: 'a' } } };
    expect(() => fromForeign([looped])).toThrow('follows itself');
  });

  it.each([null, 3, [], {}, [{}], [{ chat: {} }], { conv: {} }, [{ mapping: [] }]])('takes %j for none', (file) => {
    expect(fromForeign(file)).toBeNull();
  });
});
