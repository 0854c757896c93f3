import { describe, expect, it } from 'vitest';

import { contextUse } from './context';
import { requestOf } from './request';
import { turn } from './turn.fixture';
import type { AnswerStats, Setup } from './types';
import { cutOff, inShort } from './words';

const setup: Setup = { model: 'smol', personality: null, system: '', parameters: {} };
const image = { id: 'i', name: 'wool.png', url: 'data:image/png;base64,iVBORw0K' };
const stats: AnswerStats = {
  model: 'smol',
  personality: null,
  firstToken: 0.1,
  thinking: null,
  seconds: 2,
  promptTokens: 100,
  cachedTokens: 0,
  completionTokens: 50,
  tokensPerSecond: 25,
  finishReason: 'stop',
};

describe('the request of a branch', () => {
  it('has the turns, the system prompt, the personality and the parameters', () => {
    const turns = [
      turn('a', null, { text: 'Hello' }),
      turn('b', 'a', { role: 'assistant', text: 'Yes?', reasoning: 'Greet.' }),
      turn('c', 'b', { text: 'Bye' }),
    ];
    const asked = { ...setup, personality: 'pirate', system: 'Be brief.', parameters: { temperature: 0 } };
    expect(requestOf(turns, asked, false)).toEqual({
      model: 'smol',
      personality: 'pirate',
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Hello' },
        { role: 'assistant', content: 'Yes?' },
        { role: 'user', content: 'Bye' },
      ],
    });
  });

  it('names neither a model nor a personality where none was chosen', () => {
    const body = requestOf([turn('a', null)], { ...setup, model: null }, false);
    expect(body).not.toHaveProperty('model');
    expect(body).not.toHaveProperty('personality');
  });

  it('has images for models that see, and leaves them out for others', () => {
    const turns = [
      turn('a', null, { text: 'What is it?', images: [image] }),
      turn('b', null, { text: '', images: [image] }),
    ];
    const part = { type: 'image_url', image_url: { url: image.url } };
    expect(requestOf(turns, setup, true).messages).toEqual([
      { role: 'user', content: [part, { type: 'text', text: 'What is it?' }] },
      { role: 'user', content: [part] },
    ]);
    expect(requestOf(turns, setup, false).messages).toEqual([
      { role: 'user', content: 'What is it?' },
      { role: 'user', content: '' },
    ]);
  });

  it('leaves out answers of which nothing came', () => {
    const turns = [turn('a', null), turn('b', 'a', { role: 'assistant', text: '', error: 'No.' }), turn('c', 'b')];
    expect(requestOf(turns, setup, false).messages).toHaveLength(2);
  });

  it('keeps a model from thinking anew when it goes on with its answer', () => {
    const turns = [turn('a', null), turn('b', 'a', { role: 'assistant', text: 'It is', reasoning: 'Hm.' })];
    expect(requestOf(turns, setup, false)).toMatchObject({ chat_template_kwargs: { enable_thinking: false } });
    expect(requestOf(turns.slice(0, 1), setup, false)).not.toHaveProperty('chat_template_kwargs');
  });
});

describe('the use of the context', () => {
  const answered = [turn('a', null), turn('b', 'a', { role: 'assistant', stats })];

  it('is what the last answer counted', () => {
    expect(contextUse(answered, 'long system prompt', 0)).toEqual({ tokens: 150, exact: true });
  });

  it('is guessed for what came since, and counts what is coming', () => {
    const turns = [
      ...answered,
      turn('c', 'b', { text: 'x'.repeat(40) }),
      turn('d', 'c', { role: 'assistant', text: 'y'.repeat(400), stats: { ...stats, promptTokens: null } }),
    ];
    expect(contextUse(turns, '', 7)).toEqual({ tokens: 167, exact: false });
    expect(contextUse([turn('a', null, { text: 'x'.repeat(8) })], 'y'.repeat(8), 0)).toEqual({
      tokens: 4,
      exact: false,
    });
  });
});

describe('words about an answer', () => {
  it('tell why it is not whole', () => {
    const answer = turn('a', null, { role: 'assistant', stats });
    expect(cutOff(answer, undefined)).toBeNull();
    expect(cutOff({ ...answer, stopped: true }, undefined)).toBe('Stopped.');
    const cut = { ...answer, stats: { ...stats, finishReason: 'length' } };
    expect(cutOff(cut, 50)).toBe('Cut off at the longest answer that is set (50 tokens).');
    expect(cutOff(cut, 2000)).toContain('context is full');
    expect(cutOff({ ...answer, stats: { ...stats, finishReason: null } }, undefined)).toBe('Not finished.');
    expect(cutOff({ ...answer, stats: null }, undefined)).toBeNull();
  });

  it('tell its numbers', () => {
    expect(inShort({ ...stats, firstToken: 0.25 })).toBe('25.0 tok/s · 50 tokens · first after 250 ms');
    expect(inShort({ ...stats, firstToken: 0.25, completionTokens: 1 })).toContain('· 1 token ·');
    expect(inShort({ ...stats, tokensPerSecond: null, completionTokens: null, firstToken: null })).toBe('2.0 s');
  });
});
