import { flushSync } from 'svelte';
import { beforeEach, expect, test } from 'vitest';

import type { Caller, NewKey } from '../api/types';
import { session } from '../state/session.svelte';
import { made } from './made.svelte';

const key = { id: 'new', key: 'sk-lh-secret' } as NewKey;

function signedIn(id: string): void {
  session.caller = { key: { id } } as unknown as Caller;
}

beforeEach(() => {
  signedIn('me');
  made.show(key, 'me', 'A note.');
});

test('a made key is shown to who made it, and to nobody who signs in later', () => {
  expect([made.key, made.note]).toEqual([key, 'A note.']);
  signedIn('other');
  expect(made.key).toBeNull();
});

test('a list that was read before it was made does not hide it', () => {
  made.look([{ id: 'me' }]);
  expect(made.key).toBe(key);
});

test('revoked elsewhere, it is shown no more', () => {
  made.look([{ id: 'me' }, { id: 'new' }]);
  expect(made.key).toBe(key);
  made.look([{ id: 'me' }]);
  expect([made.key, made.note]).toEqual([null, null]);
});

test('whoever looked before there was one for them is told when there is', () => {
  signedIn('other');
  const seen: (string | null)[] = [];
  const end = $effect.root(() => {
    $effect(() => void seen.push(made.key?.id ?? null));
  });
  flushSync();
  made.show({ ...key, id: 'second' }, 'other');
  flushSync();
  expect(seen).toEqual([null, 'second']);
  end();
});
