import { render } from '@testing-library/svelte';
import { expect, it, vi } from 'vitest';

import type { Answer } from './answer.svelte';
import Progress from './Progress.svelte';
import { turn } from './turn.fixture';

vi.mock('../state/clock.svelte', () => ({ clock: { here: 100 } }));

it.each([
  [{ phase: 'writing', tokens: 1, rate: null, started: 99_800 }, '1 token'],
  [{ phase: 'thinking', tokens: 24, rate: null, started: 98_000 }, '24 tokens · 2.0 s'],
  [{ phase: 'writing', tokens: 24, rate: 12, started: 98_000 }, '12.0 tok/s · 24 tokens · 2.0 s'],
  [{ phase: 'waiting', tokens: 0, rate: null, started: 100_000 }, 'Waiting for the model'],
])('%j is said so', (fields, words) => {
  const answer = { message: turn('a', 'q', { role: 'assistant' }), progress: null, ...fields } as unknown as Answer;
  expect(render(Progress, { answer }).container.textContent?.trim()).toBe(words);
});
