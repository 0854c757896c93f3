import { describe, expect, it } from 'vitest';

import { additions } from './additions';
import { toMarkdown } from './markdown-export';
import { BadImport } from './reading';
import { fileName, fromJson, toJson } from './transfer';
import { conversation } from './turn.fixture';
import type { Conversation } from './types';

/** What JSON has it as, with something else at a path. */
function broken(path: (string | number)[], value: unknown): string {
  const file = JSON.parse(toJson([conversation('c')])) as Record<string | number, unknown>;
  let part = file;
  for (const name of path.slice(0, -1)) part = part[name] as typeof part;
  part[path.at(-1)!] = value;
  return JSON.stringify(file);
}

const full: Conversation = conversation('full', {
  named: true,
  system: 'Be brief.',
  parameters: { temperature: 0.2, stop: ['END'] },
  second: { model: 'other', personality: 'pirate', system: '', parameters: { seed: 7 } },
});
full.messages['full-q']!.images = [{ id: 'i', name: 'wool.png', url: 'data:image/png;base64,iVBORw0K' }];
full.messages['full-a']!.stats = {
  model: 'smol',
  personality: null,
  firstToken: 0.3,
  thinking: null,
  seconds: 2,
  promptTokens: 12,
  cachedTokens: 0,
  completionTokens: 30,
  tokensPerSecond: 15,
  finishReason: 'stop',
};

describe('export and import', () => {
  it('loses nothing', () => {
    expect(fromJson(toJson([full, conversation('other')]))).toEqual({
      conversations: [full, conversation('other')],
      unknown: 0,
    });
  });

  it.each([
    ['not JSON', '{', 'not JSON'],
    ['another file', '{"a": 1}', 'Open WebUI, of llama.cpp'],
    ['a list', '[]', 'of Open WebUI'],
    ['chats without turns', '{"conv": {}, "messages": []}', 'Nothing was said'],
    ['a conversation that is none', broken(['conversations', 0], 3), 'conversations[0] must be an object'],
    ['a newer version', broken(['version'], 2), 'version 2'],
    ['no list', broken(['conversations'], {}), 'conversations must be a list'],
    ['a wrong role', broken(['conversations', 0, 'messages', 'c-q', 'role'], 'system'), 'c-q.role'],
    ['a wrong text', broken(['conversations', 0, 'messages', 'c-q', 'text'], 3), 'c-q.text must be a text'],
    ['a wrong time', broken(['conversations', 0, 'created'], 'today'), 'created must be a number'],
    ['a parent that is missing', broken(['conversations', 0, 'messages', 'c-a', 'parent'], 'x'), 'names no turn'],
    ['turns in a circle', broken(['conversations', 0, 'messages', 'c-q', 'parent'], 'c-a'), 'follows itself'],
    ['a leaf that is missing', broken(['conversations', 0, 'leaf'], 'x'), 'leaf names no turn'],
    ['an id with a slash', broken(['conversations', 0, 'id'], 'a/b'), 'conversations[0].id'],
    ['a leaf that every object has', broken(['conversations', 0, 'leaf'], 'constructor'), 'leaf names no turn'],
    ['such a parent', broken(['conversations', 0, 'messages', 'c-a', 'parent'], 'toString'), 'names no turn'],
    ['such a pair', broken(['conversations', 0, 'pair'], ['valueOf', 'toString']), 'pair must name two turns'],
    ['no time', broken(['conversations', 0, 'changed'], 1e300), 'changed must be milliseconds'],
    ['an image file', '\x89PNG', 'not JSON'],
    ['a pair of one', broken(['conversations', 0, 'pair'], ['c-a']), 'pair must name two turns'],
    ['a wrong parameter', broken(['conversations', 0, 'parameters', 'top_k'], 'many'), 'parameters.top_k'],
    [
      'an image from elsewhere',
      broken(['conversations', 0, 'messages', 'c-q', 'images'], [{ id: 'i', name: 'n', url: 'https://example.org/' }]),
      'images[0].url must be an image',
    ],
  ])('tells of %s', (_, text, message) => {
    expect(() => fromJson(text)).toThrow(BadImport);
    expect(() => fromJson(text)).toThrow(message);
  });

  it('shows the newest branch where the file does not say which', () => {
    expect(fromJson(broken(['conversations', 0, 'leaf'], null)).conversations[0]!.leaf).toBe('c-a');
  });

  it('leaves out parameters that are not known, and counts them', () => {
    const second = { model: null, parameters: { dry_multiplier: 1, top_k: 3 } };
    const file = broken(['conversations', 0, 'second'], second).replace('"parameters":{}', '"parameters":{"tools":1}');
    const { conversations, unknown } = fromJson(file);
    expect(unknown).toBe(2);
    expect(conversations[0]?.parameters).toEqual({});
    expect(conversations[0]?.second?.parameters).toEqual({ top_k: 3 });
  });

  it('gives an id that is taken anew, and leaves out what is there to the letter', () => {
    const there = [conversation('a'), conversation('b')];
    const [added, ...more] = additions([conversation('a'), conversation('b', { title: 'Another' })], there);
    expect(['a', 'b']).not.toContain(added!.id);
    expect(more).toEqual([]);
    expect(added!.messages).not.toHaveProperty('b-q');
    expect(toMarkdown(added!)).toBe(toMarkdown({ ...there[1]!, title: 'Another' }));
  });

  it('refuses a turn that would become the prototype of the others', () => {
    const text = toJson([conversation('c')]).replaceAll('"c-q"', '"__proto__"');
    expect(() => fromJson(text)).toThrow(/^A name in conversations\[0\]\.messages/);
  });

  it('does not tell whose the chats were', () => {
    const whole = conversation('c', { owner: { service: 'https://box.lan', key: 'k1' } });
    expect(toJson([whole])).not.toContain('box.lan');
    expect(additions(fromJson(toJson([whole])).conversations, [whole])).toEqual([]);
  });

  it('shortens a title that is too long for any list, and gives one that is missing', () => {
    expect(fromJson(toJson([conversation('c', { title: 't'.repeat(900) })])).conversations[0]!.title).toHaveLength(200);
    expect(fromJson(toJson([conversation('c', { title: '' })])).conversations[0]!.title).toBe('New chat');
  });

  it('overwrites no chat of another key', () => {
    const [added] = additions([conversation('a')], [], ['a']);
    expect(added!.id).not.toBe('a');
  });

  it('gives one of two with the same id in a file another', () => {
    const added = additions([conversation('a'), conversation('a', { title: 'Another' })], []);
    expect(new Set(added.map(({ id }) => id)).size).toBe(2);
  });
});

describe('a file', () => {
  it('is saved under a name that every system takes', () => {
    expect(fileName('../a: "b"?', 'md')).toBe('a-b.md');
    expect(fileName('🦙', 'json')).toBe('chat.json');
  });
});
