import { describe, expect, it } from 'vitest';

import { byDay } from './groups';
import { titleOf } from './titles';

const now = new Date(2026, 2, 30, 0, 30);

describe('groups of conversations', () => {
  it('go by the days of the calendar, also over a change of the clocks', () => {
    const items = [
      new Date(2026, 2, 30, 0, 10),
      new Date(2026, 2, 29, 23, 50),
      new Date(2026, 2, 29, 1, 0),
      new Date(2026, 2, 24),
      new Date(2026, 1, 3),
      new Date(2025, 1, 3),
    ].map((date) => ({ changed: date.getTime() }));
    expect(byDay(items, now).map(({ title, items }) => [title, items.length])).toEqual([
      ['Today', 1],
      ['Yesterday', 2],
      ['Last 7 days', 1],
      ['February', 1],
      ['February 2025', 1],
    ]);
  });

  it('take a clock that went back for today', () => {
    expect(byDay([{ changed: now.getTime() + 1e9 }], now)[0]!.title).toBe('Today');
  });
});

describe('titles', () => {
  it('are the first line of the first turn', () => {
    expect(titleOf('  What  is\ta herd?\nTell me.')).toBe('What is a herd?');
    expect(titleOf(' \n ')).toBe('New chat');
  });

  it('end at a word and never within a letter', () => {
    expect(titleOf('word '.repeat(30))).toMatch(/^(word )+…$/);
    expect(titleOf('🦙'.repeat(100))).toBe(`${'🦙'.repeat(60)} …`);
  });
});
