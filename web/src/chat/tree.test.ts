import { describe, expect, it } from 'vitest';

import { branch, childrenOf, leafWithout, newestLeaf, subtree, type Messages } from './tree';
import { turn } from './turn.fixture';

/** a1 ─ b1 ─ c1, a1 ─ b2 ─ c2 ─ d2, a2. */
function tree(): Messages {
  const turns = [
    turn('a1', null, { at: 1 }),
    turn('b1', 'a1', { at: 2 }),
    turn('c1', 'b1', { at: 3 }),
    turn('b2', 'a1', { at: 4 }),
    turn('c2', 'b2', { at: 5 }),
    turn('d2', 'c2', { at: 6 }),
    turn('a2', null, { at: 7 }),
  ];
  return Object.fromEntries(turns.map((one) => [one.id, one]));
}

describe('the tree of turns', () => {
  it('gives the branch of a leaf from its first turn on', () => {
    expect(branch(tree(), 'd2').map(({ id }) => id)).toEqual(['a1', 'b2', 'c2', 'd2']);
    expect(branch(tree(), null)).toEqual([]);
    expect(branch(tree(), 'gone')).toEqual([]);
  });

  it('ends on turns that go round in a circle', () => {
    const messages = { x: turn('x', 'y'), y: turn('y', 'x') };
    expect(branch(messages, 'x').length).toBeLessThan(5);
  });

  it('knows what follows a turn, oldest first, whatever the order of the record', () => {
    const messages = Object.fromEntries(Object.entries(tree()).reverse());
    expect(childrenOf(messages).get('a1')).toEqual(['b1', 'b2']);
    expect(childrenOf(messages).get(null)).toEqual(['a1', 'a2']);
  });

  it('goes on with the newest branch through a turn', () => {
    expect(newestLeaf(tree(), 'a1')).toBe('d2');
    expect(newestLeaf(tree(), 'b1')).toBe('c1');
    expect(newestLeaf(tree(), 'a2')).toBe('a2');
  });

  it('finds all that goes with a turn', () => {
    expect(subtree(tree(), 'b2')).toEqual(['b2', 'c2', 'd2']);
    expect(subtree(tree(), 'a1').sort()).toEqual(['a1', 'b1', 'b2', 'c1', 'c2', 'd2']);
  });

  it('shows the branch beside a turn that goes, else the turn before it', () => {
    expect(leafWithout(tree(), 'b2')).toBe('c1');
    expect(leafWithout(tree(), 'b1')).toBe('d2');
    expect(leafWithout(tree(), 'd2')).toBe('c2');
    expect(leafWithout({ a: turn('a', null) }, 'a')).toBeNull();
  });
});
