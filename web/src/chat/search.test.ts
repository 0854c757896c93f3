import { describe, expect, it } from 'vitest';

import { find } from './search';
import { head, turn } from './turn.fixture';

const heads = [head('two', { title: 'Café in Zürich' }), head('one', { title: 'Llamas' })];

describe('search', () => {
  it('finds titles without regard to case and accents', () => {
    const [hit, ...more] = find('CAFE zurich', heads, []);
    expect(hit).toMatchObject({ conversation: 'two', message: null, turns: 0 });
    expect(more).toEqual([]);
  });

  it('finds the newest turn that has all the words, and counts the others', () => {
    const stored = [
      { conversation: 'one', message: turn('a', null, { at: 2, text: 'wool of an alpaca' }) },
      { conversation: 'one', message: turn('b', 'a', { at: 1, text: 'alpaca wool' }) },
      { conversation: 'one', message: turn('c', 'b', { at: 3, text: 'only wool' }) },
    ];
    expect(find('alpaca wool', heads, stored)).toMatchObject([{ conversation: 'one', message: 'a', turns: 2 }]);
  });

  it('keeps the order of the conversations', () => {
    const stored = ['one', 'two'].map((conversation) => ({ conversation, message: turn(conversation, null) }));
    expect(find('text', heads, stored).map((hit) => hit.conversation)).toEqual(['two', 'one']);
  });

  it('shows the text about the match as it is written, also where folding changes its length', () => {
    const text = `${'ﬁ '.repeat(60)}the Ärger\nof it`;
    const [hit] = find('arger', heads, [{ conversation: 'one', message: turn('a', null, { text }) }]);
    expect(hit!.match).toBe('Ärger');
    expect(hit!.before).toMatch(/^….*the $/);
    expect(hit!.after).toBe(' of it');
  });

  it('finds nothing for a query of spaces', () => {
    expect(find('  ', heads, [])).toEqual([]);
  });

  it('leaves out turns of conversations that are gone', () => {
    expect(find('text', heads, [{ conversation: 'gone', message: turn('a', null) }])).toEqual([]);
  });
});
