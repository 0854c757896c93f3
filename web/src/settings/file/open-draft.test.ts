import { flushSync } from 'svelte';
import { beforeEach, expect, test } from 'vitest';

import { session } from '../../state/session.svelte';
import { openDraft } from './open-draft.svelte';

function asks(): boolean {
  flushSync();
  return !dispatchEvent(new Event('beforeunload', { cancelable: true }));
}

beforeEach(() => {
  session.base = '';
  const draft = openDraft.get();
  draft.file = { path: '/data/models.json', text: '{}', version: 'v1', writable: true };
  draft.text = '{}';
});

test('what is not saved is there again on the next page that asks, and the browser asks before it is lost', () => {
  expect([openDraft.dirty, asks()]).toEqual([false, false]);
  openDraft.get().text = '{"mine": {}}';
  expect(openDraft.get().text).toBe('{"mine": {}}');
  expect([openDraft.dirty, asks()]).toEqual([true, true]);
  openDraft.get().text = '{}';
  expect([openDraft.dirty, asks()]).toEqual([false, false]);
});

test('what was begun for one service is not shown for another', () => {
  openDraft.get().text = '{"mine": {}}';
  session.base = 'https://other.example';
  expect([openDraft.get().text, openDraft.dirty]).toEqual(['', false]);
});
