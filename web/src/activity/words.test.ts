import { expect, test } from 'vitest';

import { ended } from './fixture';
import { kindOf, outcomeWords } from './outcome';
import { modelOf, promptTokens, tokensPerSecond } from './words';

test('outcomes are told in words', () => {
  expect(['ok', 'left', 'cancelled', 'context_length_exceeded', 'upstream_status'].map(outcomeWords)).toEqual([
    'ok',
    'client left',
    'cancelled',
    'context length exceeded',
    'error of the engine',
  ]);
  expect(['ok', 'left', 'cancelled', 'queue_full', 'upstream_status'].map(kindOf)).toEqual([
    'ok',
    'left',
    'cancelled',
    'failed',
    'failed',
  ]);
});

test('a request that came to no model says so', () => {
  expect(modelOf(ended(1, { model: null }))).toBe('no model');
  expect(modelOf(ended(1))).toBe('smol');
});

test('tokens, those that were cached, and their speed', () => {
  expect(promptTokens(ended(1, { prompt_tokens: 1200, cached_tokens: 1184 }))).toBe('1,200 (1,184 cached)');
  expect(promptTokens(ended(1, { prompt_tokens: null, cached_tokens: null }))).toBe('–');
  expect([tokensPerSecond(ended(1)), tokensPerSecond(ended(1, { tokens_per_second: null }))]).toEqual(['10.0/s', '–']);
});
