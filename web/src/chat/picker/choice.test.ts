import { beforeEach, describe, expect, it } from 'vitest';

import { servedModel } from '../../testing/served';
import { factsOf, firstChoice, keepChoice, keptChoice, matching } from './choice';

const MODELS = [
  servedModel('Qwen3-8B', { aliases: ['default'], description: 'For code', personalities: ['pirate'] }),
  servedModel('Qwen3-8B:fast', { parent: 'Qwen3-8B', context_length: 32768 }),
  servedModel('broken', { unavailable: 'cut off' }),
];

it.each([
  ['', ['Qwen3-8B', 'Qwen3-8B:fast', 'broken']],
  ['qwen FAST', ['Qwen3-8B:fast']],
  ['defau', ['Qwen3-8B']],
  ['code', ['Qwen3-8B']],
  ['nothing', []],
])('%j matches %j', (query, ids) => {
  expect(matching(MODELS, query).map(({ id }) => id)).toEqual(ids);
});

it('tells what there is to know', () => {
  expect(factsOf(MODELS[0]!)).toEqual(['1 personality', 'also default']);
  expect(factsOf({ ...MODELS[1]!, input_modalities: ['text', 'image'] })).toEqual([
    '32,768 tokens',
    'sees images',
    'profile of Qwen3-8B',
  ]);
});

describe('the first choice', () => {
  beforeEach(() => localStorage.clear());

  it('is the last one', () => {
    keepChoice({ model: 'Qwen3-8B', personality: 'pirate' });
    expect(firstChoice(MODELS, 'x', keptChoice())).toEqual({ model: 'Qwen3-8B', personality: 'pirate' });
  });

  it('is without a personality that is gone', () => {
    expect(firstChoice(MODELS, 'x', { model: 'Qwen3-8B', personality: 'poet' })?.personality).toBeNull();
  });

  it.each([null, { model: 'gone', personality: null }, { model: 'broken', personality: null }])(
    'is the default where the last one was %j',
    (kept) => {
      expect(firstChoice(MODELS, 'x', kept)).toEqual({ model: 'x', personality: null });
    },
  );

  it('is none where there are no models', () => {
    expect(firstChoice([], null, null)).toBeNull();
  });

  it.each(['{', '7', '{"model":1}', 'null'])('minds not that %j was kept', (kept) => {
    localStorage.setItem('llamaherd.model', kept);
    expect(keptChoice()).toBeNull();
  });
});
