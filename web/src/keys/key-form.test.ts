import { expect, test } from 'vitest';

import type { Key } from '../api/types';
import { bodyOf, broughtUp, changesOf, differencesOf, fieldsOf, localDate } from './key-form';

const NOW = 1_800_000_000.5;
const key: Key = {
  id: '0a1b2c3d',
  name: 'web',
  description: 'the page',
  scopes: ['inference'],
  created: 1,
  expires: 1_900_000_025,
  last_used: null,
  priority: 0,
  models: ['smol'],
  requests_per_minute: 60,
  tokens_per_day: null,
  at_once: null,
  former_until: null,
  current: false,
  tokens_today: 0,
};

test('a new key may use all models, without limits or an end', () => {
  expect(bodyOf({ ...fieldsOf(null), name: ' laptop ' }, NOW)).toEqual({
    name: 'laptop',
    description: '',
    scopes: ['inference'],
    models: null,
    requests_per_minute: null,
    tokens_per_day: null,
    at_once: null,
    priority: 0,
    expires: null,
  });
});

test('an expiry counts from now', () => {
  expect(bodyOf({ ...fieldsOf(null), expires: '7' }, NOW).expires).toBe(1_800_000_000 + 7 * 86_400);
});

test('a date is one of this browser', () => {
  const date = '2031-05-01T10:30';
  expect(bodyOf({ ...fieldsOf(null), expires: 'date', date }, NOW).expires).toBe(new Date(date).getTime() / 1000);
  expect(localDate(new Date(date).getTime() / 1000)).toBe(date);
});

test('what was left alone is not changed, not even by a form that knows no seconds', () => {
  expect(changesOf(key, fieldsOf(key), NOW)).toEqual({});
});

test('only what is different is changed, and what was emptied is taken away', () => {
  const fields = { ...fieldsOf(key), requestsPerMinute: null, atOnce: 4, limited: false, expires: 'never' as const };
  expect(changesOf(key, fields, NOW)).toEqual({ requests_per_minute: null, at_once: 4, models: null, expires: null });
});

test('what others changed since the form began is told, and is no change of the form', () => {
  const later: Key = { ...key, requests_per_minute: 5, models: null, last_used: 7 };
  expect(differencesOf(key, later)).toEqual(['Models: all, was smol', 'Requests a minute: 5, was 60']);
  expect(differencesOf(key, { ...key, last_used: 7, tokens_today: 9 })).toEqual([]);
});

test('a form is brought up to date but for what was changed in it', () => {
  const later: Key = { ...key, requests_per_minute: 5, tokens_per_day: 100, models: null, expires: null };
  const mine = { ...fieldsOf(key), requestsPerMinute: 20, models: ['smol', 'other'] };
  const fields = broughtUp(mine, key, later, NOW);
  expect(fields).toEqual({ ...fieldsOf(later), requestsPerMinute: 20, limited: true, models: ['smol', 'other'] });
  expect(changesOf(later, fields, NOW)).toEqual({ requests_per_minute: 20, models: ['smol', 'other'] });
});
