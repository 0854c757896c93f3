import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Client } from '../api/client';
import { Answer } from './answer.svelte';
import { turn } from './turn.fixture';
import type { Message } from './types';

let push: (text: string) => void;
let close: () => void;
let frames: (() => void)[] = [];

/** A service whose answers the test writes. */
beforeEach(() => {
  frames = [];
  vi.stubGlobal('requestAnimationFrame', (callback: () => void) => frames.push(callback));
  vi.stubGlobal('cancelAnimationFrame', () => (frames = []));
  vi.stubGlobal('fetch', (_: string, { signal }: RequestInit) => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        push = (text) => controller.enqueue(new TextEncoder().encode(text));
        close = () => controller.close();
        signal!.addEventListener('abort', () => controller.error(signal!.reason));
      },
    });
    return Promise.resolve(new Response(body, { status: 200 }));
  });
});

afterEach(() => vi.unstubAllGlobals());

const chunk = (delta: object, finish_reason: string | null = null): string =>
  `data: ${JSON.stringify({ choices: [{ delta, finish_reason }] })}\n\n`;
const usage = (prompt_tokens: number, completion_tokens: number): string =>
  `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens, completion_tokens } })}\n\ndata: [DONE]\n\n`;

function begin(message: Message): { answer: Answer; grown: () => number; ended: Promise<unknown> } {
  let growths = 0;
  let end: (error: unknown) => void;
  const ended = new Promise<unknown>((resolve) => (end = resolve));
  const answer = new Answer('c', message, { ongrown: () => (growths += 1), onended: (error) => end(error) });
  void answer.run(new Client('', null), {});
  return { answer, grown: () => growths, ended };
}

const blank = (fields: Partial<Message> = {}): Message => turn('a', 'q', { role: 'assistant', text: '', ...fields });

describe('an answer', () => {
  it('is put into its turn once a frame, however many pieces came', async () => {
    const message = blank();
    const { answer, grown, ended } = begin(message);
    await vi.waitFor(() => push(chunk({ reasoning_content: 'Hm' })));
    push(chunk({ content: 'Many' }) + chunk({ content: ' llamas' }));
    await vi.waitFor(() => expect(grown()).toBe(3));
    expect(message.text).toBe('');
    expect(frames).toHaveLength(1);
    frames[0]!();
    expect(message).toMatchObject({ text: 'Many llamas', reasoning: 'Hm' });
    expect(answer).toMatchObject({ phase: 'writing', tokens: 3 });
    push(chunk({ content: '.' }) + chunk({}, 'stop') + usage(10, 4));
    close();
    expect(await ended).toBeNull();
    expect(message.text).toBe('Many llamas.');
    expect(message.stats).toMatchObject({ promptTokens: 10, completionTokens: 4, finishReason: 'stop' });
    expect(message.stats!.thinking).not.toBeNull();
    expect(message.stats!.firstToken).toBeLessThanOrEqual(message.stats!.seconds);
  });

  it('keeps what came of it when it is stopped', async () => {
    const message = blank();
    const { answer, grown, ended } = begin(message);
    await vi.waitFor(() => push(chunk({ content: 'Many' })));
    await vi.waitFor(() => expect(grown()).toBe(1));
    answer.stop();
    await ended;
    expect(message).toMatchObject({ text: 'Many', stopped: true, error: null });
    expect(message.stats).toMatchObject({ completionTokens: 1, finishReason: null });
  });

  it('keeps what came of it when it fails, and says why', async () => {
    const message = blank();
    const { ended } = begin(message);
    await vi.waitFor(() => push(chunk({ content: 'Many' }) + 'data: {"error": {"message": "It fell over."}}\n\n'));
    expect(await ended).toMatchObject({ message: 'It fell over.' });
    expect(message).toMatchObject({ text: 'Many', stopped: false, error: 'It fell over.' });
  });

  it('goes on where it was cut off, whether or not the service repeats what it had', async () => {
    for (const [first, expected] of [
      ['Many llamas, ', 'Many llamas, and more'],
      [' in', 'Many llamas, in and more'],
    ] as const) {
      const message = blank({
        text: 'Many llamas,',
        stats: {
          model: 'smol',
          personality: null,
          firstToken: 0.5,
          thinking: null,
          seconds: 3,
          promptTokens: 10,
          cachedTokens: 0,
          completionTokens: 4,
          tokensPerSecond: 2,
          finishReason: null,
        },
      });
      const { ended } = begin(message);
      const rest = first === ' in' ? ' and more' : 'and more';
      await vi.waitFor(() =>
        push(chunk({ content: first }) + chunk({ content: rest }) + chunk({}, 'stop') + usage(14, 3)),
      );
      close();
      await ended;
      expect(message.text).toBe(expected);
      expect(message.stats).toMatchObject({ firstToken: 0.5, promptTokens: 10, completionTokens: 7 });
      expect(message.stats!.seconds).toBeGreaterThanOrEqual(3);
    }
  });
});
