import { fireEvent, render, screen } from '@testing-library/svelte';
import { beforeEach, expect, it, vi } from 'vitest';

import ContextMeter from './ContextMeter.svelte';
import Interrupted from './Interrupted.svelte';
import { TUNER } from './parameters/tuner';
import { head, turn } from './turn.fixture';
import type { AnswerStats } from './types';

vi.mock('../state/served.svelte', () => ({ served: { find: () => ({ context_length: 100 }) } }));

const tune = vi.fn();
const context = new Map([[TUNER, tune]]);
const budget = 'Set a conversation budget';

beforeEach(() => tune.mockClear());

it.each([
  ["The conversation is longer than the model's context (2,510 of 2,048 tokens).", true],
  ['request (2510 tokens) exceeds the available context size (2048 tokens)', true],
  ['The model fell over.', false],
])('an answer that failed with %j offers a budget: %s', async (error, offers) => {
  const message = turn('a', 'q', { role: 'assistant', text: '', error });
  const props = { message, limit: undefined, busy: false, onretry: () => {}, oncontinue: () => {} };
  render(Interrupted, { props, context });
  expect(screen.getByRole('button', { name: 'Try again' })).not.toBeNull();
  const button = screen.queryByRole('button', { name: budget });
  expect(button !== null).toBe(offers);
  if (button) await fireEvent.click(button);
  expect(tune.mock.calls).toEqual(offers ? [['ctx', 'a']] : []);
});

it('a context that is nearly full leads to the budget', async () => {
  const stats = { promptTokens: 90, completionTokens: 5 } as AnswerStats;
  const turns = [turn('q', null), turn('a', 'q', { role: 'assistant', stats })];
  const { container } = render(ContextMeter, { props: { head: head('c'), turns }, context });
  expect(container.textContent).toContain('95 % full');
  await fireEvent.click(screen.getByRole('button', { name: budget }));
  expect(tune).toHaveBeenCalledWith('ctx');
});
