import { describe, expect, it } from 'vitest';

import { SearchIndex, type Hit } from './search';
import { inSlices } from './slices';
import type { Stored } from './storage';
import { head, turn } from './turn.fixture';

const heads = [head('two', { title: 'Café in Zürich' }), head('one', { title: 'Llamas' })];

function index(stored: Stored[]): SearchIndex {
  const made = new SearchIndex();
  for (const id of new Set(stored.map(({ conversation }) => conversation))) {
    made.put(
      id,
      1,
      stored.filter(({ conversation }) => conversation === id).map(({ message }) => message),
    );
  }
  return made;
}

function search(query: string, stored: Stored[], most = 100): { hits: Hit[]; total: number } {
  const work = index(stored).find(query, heads, most);
  for (;;) {
    const step = work.next();
    if (step.done) return step.value;
  }
}

const find = (query: string, stored: Stored[]): Hit[] => search(query, stored).hits;

describe('search', () => {
  it('finds titles without regard to case and accents', () => {
    const [hit, ...more] = find('CAFE zurich', []);
    expect(hit).toMatchObject({ conversation: 'two', message: null, turns: 0 });
    expect(more).toEqual([]);
  });

  it('finds the newest turn that has all the words, and counts the others', () => {
    const stored = [
      { conversation: 'one', message: turn('a', null, { at: 2, text: 'wool of an alpaca' }) },
      { conversation: 'one', message: turn('b', 'a', { at: 1, text: 'alpaca wool' }) },
      { conversation: 'one', message: turn('c', 'b', { at: 3, text: 'only wool' }) },
    ];
    expect(find('alpaca wool', stored)).toMatchObject([{ conversation: 'one', message: 'a', turns: 2 }]);
  });

  it('keeps the order of the conversations', () => {
    const stored = ['one', 'two'].map((conversation) => ({ conversation, message: turn(conversation, null) }));
    expect(find('text', stored).map((hit) => hit.conversation)).toEqual(['two', 'one']);
  });

  it('shows the text about the match as it is written, also where folding changes its length', () => {
    const text = `${'ﬁ '.repeat(60)}the Ärger\nof it`;
    const [hit] = find('arger', [{ conversation: 'one', message: turn('a', null, { text }) }]);
    expect(hit!.match).toBe('Ärger');
    expect(hit!.before).toMatch(/^….*the $/);
    expect(hit!.after).toBe(' of it');
  });

  it('finds nothing for a query of spaces', () => {
    expect(find('  ', [])).toEqual([]);
  });

  it('leaves out turns of conversations that are gone', () => {
    expect(find('text', [{ conversation: 'gone', message: turn('a', null) }])).toEqual([]);
  });

  it('shows no more than it is asked for, and counts all', () => {
    const stored = ['one', 'two'].map((conversation) => ({ conversation, message: turn(conversation, null) }));
    expect(search('text', stored, 1)).toMatchObject({ hits: [{ conversation: 'two' }], total: 2 });
  });

  it('finds a word at the end of a long text, and one at its start', () => {
    const text = `first ${'ä '.repeat(5000)}last`;
    for (const word of ['first', 'last']) {
      expect(search(word, [{ conversation: 'one', message: turn('a', null, { text }) }]).hits[0]!.match).toBe(word);
    }
  });

  it('knows which conversations have changed', () => {
    const made = index([{ conversation: 'one', message: turn('a', null) }]);
    expect([made.has('one', 1), made.has('one', 2), made.has('two', 1)]).toEqual([true, false, false]);
  });

  it('lets the page work in between, and ends when nobody waits any more', async () => {
    let steps = 0;
    function* forever(): Generator<undefined, never> {
      for (;;) {
        steps += 1;
        yield;
      }
    }
    const stopping = new AbortController();
    setTimeout(() => stopping.abort());
    await expect(inSlices(forever(), stopping.signal)).rejects.toThrow('abort');
    expect(steps).toBeGreaterThan(1);
  });
});
