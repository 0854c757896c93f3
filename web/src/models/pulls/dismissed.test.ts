import { beforeEach, expect, test } from 'vitest';

import { pull } from '../testing';
import { Dismissed } from './dismissed.svelte';

const NAME = 'llamaherd.dismissed';

beforeEach(() => localStorage.clear());

test('what was put away is so after a reload', () => {
  new Dismissed().add('a');
  new Dismissed().add('b');
  expect([...new Dismissed().ids]).toEqual(['a', 'b']);
});

test('other tabs follow, until that ends', () => {
  const here = new Dismissed();
  const end = here.follow();
  new Dismissed().add('a');
  dispatchEvent(new StorageEvent('storage', { key: 'llamaherd.theme' }));
  expect(here.ids.size).toBe(0);
  dispatchEvent(new StorageEvent('storage', { key: NAME }));
  expect([...here.ids]).toEqual(['a']);
  end();
  localStorage.clear();
  dispatchEvent(new StorageEvent('storage', { key: null }));
  expect([...here.ids]).toEqual(['a']);
});

test('what another tab put away meanwhile stays so', () => {
  const here = new Dismissed();
  new Dismissed().add('a');
  here.add('b');
  expect([...new Dismissed().ids].sort()).toEqual(['a', 'b']);
});

test('what the service has forgotten is forgotten', () => {
  const here = new Dismissed();
  here.add('a');
  here.add('b');
  here.prune([pull({ id: 'b' }), pull({ id: 'c' })]);
  expect([[...here.ids], localStorage.getItem(NAME)]).toEqual([['b'], '["b"]']);
});

test.each(['no JSON', '7', '[1, null]'])('something else that was kept is nothing: %s', (kept) => {
  localStorage.setItem(NAME, kept);
  expect(new Dismissed().ids.size).toBe(0);
});
