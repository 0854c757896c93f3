import { expect, it } from 'vitest';

import { toMarkdown } from './markdown-export';
import { conversation, turn } from './turn.fixture';
import type { AnswerStats } from './types';

const at = new Date(2026, 10, 2, 9).getTime();
const stats: AnswerStats = {
  model: 'smol',
  personality: null,
  firstToken: null,
  thinking: null,
  seconds: 1,
  promptTokens: null,
  cachedTokens: null,
  completionTokens: null,
  tokensPerSecond: null,
  finishReason: 'stop',
};

function exported(said: string, answer: string): string {
  const whole = conversation('c', { title: 'Wool\nand more', system: 'Be brief.\n\nBe kind.' });
  const image = { id: 'i', name: 'wool.png', url: 'data:image/png;base64,iVBORw0K' };
  Object.assign(whole.messages['c-q']!, { at, text: said, images: [image] });
  Object.assign(whole.messages['c-a']!, { text: answer, stats });
  whole.messages['aside'] = turn('aside', 'c-q', { role: 'assistant', text: 'Elsewhere.' });
  return toMarkdown(whole);
}

it('has the branch that is shown, what was typed quoted, and names images', () => {
  expect(exported('What is a herd?\n\n# no heading', 'Many llamas.')).toBe(
    '# Wool and more\n\n*2026-11-02 · smol*\n\n**System prompt**\n\n> Be brief.\n>\n> Be kind.\n\n' +
      '## You\n\n*Image: wool.png*\n\n> What is a herd?\n>\n> # no heading\n\n## smol\n\nMany llamas.\n',
  );
});

it.each([
  ['# One\n\ntext\n\n## Two ##\ntext', '### One\n\ntext\n\n#### Two\ntext'],
  ['One\n===\n\nTwo\n---\ntext', '### One\n\n#### Two\ntext'],
  ['##### Five\n\n###### Six', '###### Five\n\n###### Six'],
  ['```sh\n# a comment\n```\n\n#hashtag', '```sh\n# a comment\n```\n\n#hashtag'],
])('has the headings of %j two levels further down', (answer, expected) => {
  expect(exported('x', answer)).toContain(`## smol\n\n${expected}\n`);
});
