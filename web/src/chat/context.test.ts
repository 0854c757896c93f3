import { expect, it } from 'vitest';

import { isTooLong, tooLong } from './context';

it.each([
  [
    'request (2510 tokens) exceeds the available context size (2048 tokens), try increasing it',
    '(2,510 of 2,048 tokens).',
  ],
  ['The request has 4100 tokens; the context window is 4096.', '(4,100 of 4,096 tokens).'],
  ['The prompt has 1001 tokens; the window is 1000.', '(1,001 of 1,000 tokens).'],
  ['input is too large', "than the model's context."],
  ['The shortest form of this conversation has 90 tokens; the budget for prompt and answer is 64.', 'answer is 64.'],
])('%j is said in a sentence, and known by it', (said, end) => {
  expect(tooLong(said).endsWith(end)).toBe(true);
  expect(isTooLong(tooLong(said))).toBe(true);
});

it.each(['The model fell over.', 'It does not fit.'])('%j is something else', (said) => {
  expect(isTooLong(said)).toBe(false);
});
