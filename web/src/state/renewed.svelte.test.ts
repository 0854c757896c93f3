import { flushSync } from 'svelte';
import { expect, test } from 'vitest';

import { renewed } from './renewed';

interface Item {
  name: string;
  size: number;
  memory: Record<string, number>;
}

function item(name: string, size = 1, host = 1): Item {
  return { name, size, memory: { host } };
}

test('only who shows what differs is told', () => {
  let items = $state([item('a'), item('b'), item('c')]);
  const told: string[] = [];
  const end = $effect.root(() => {
    $effect(() => void told.push(`names ${items.map(({ name }) => name).join('')}`));
    for (const name of ['a', 'b', 'c']) {
      $effect(() => void told.push(`size ${name} ${items.find((one) => one.name === name)!.size}`));
      $effect(() => void told.push(`memory ${name} ${items.find((one) => one.name === name)!.memory.host}`));
    }
  });
  flushSync();
  told.length = 0;
  items = renewed(items, [item('a'), item('b', 2), item('c', 1, 5)]);
  flushSync();
  expect(told).toEqual(['size b 2', 'memory c 5']);
  told.length = 0;
  items = renewed(items, [item('a'), item('b', 2), item('c', 1, 5)]);
  flushSync();
  expect(told).toEqual([]);
  end();
});

test('who comes, goes or moves is where it was read', () => {
  const [a, b, c] = [item('a'), item('b'), item('c')];
  const now = renewed([a, b, c], [item('c', 7), item('new'), item('a')]);
  expect(now).toEqual([item('c', 7), item('new'), item('a')]);
  expect([now[0], now[2]]).toEqual([c, a]);
  expect(now[0]).toBe(c);
});

test('what is not said any more is gone', () => {
  const known: { name: string; fault?: string }[] = [{ name: 'a', fault: 'cut off' }];
  renewed(known, [{ name: 'a' }]);
  expect(known).toEqual([{ name: 'a' }]);
});
