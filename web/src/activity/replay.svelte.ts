import { isAbort, messageOf } from '../api/client';
import type { EndedRequest } from '../api/types';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';
import { AnswerReader, type Answer } from './answer';

/** One request that is sent again, and what comes of it. */
export class Replay {
  state = $state<'idle' | 'running' | 'done' | 'stopped' | 'failed'>('idle');
  answer = $state.raw<Answer | null>(null);
  problem = $state('');
  /** What the service noted of it, when it has ended. */
  ended = $state.raw<EndedRequest | null>(null);

  #stop: AbortController | null = null;

  async send(path: string, body: unknown): Promise<void> {
    this.stop();
    const stop = new AbortController();
    this.#stop = stop;
    this.state = 'running';
    this.answer = null;
    this.ended = null;
    this.problem = '';
    const id = `replay-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
    const end = feed.on<EndedRequest & { state: string }>('request', ({ state, ...request }) => {
      if (request.id !== id || state !== 'ended') return;
      end();
      if (this.#stop === stop) this.ended = request;
    });
    try {
      const headers = { 'X-Request-ID': id };
      const response = await session.client.fetch(path, { method: 'POST', body, headers, signal: stop.signal });
      await this.#read(response, stop);
      if (this.#stop === stop) this.state = 'done';
    } catch (error) {
      if (this.#stop !== stop) return;
      this.state = isAbort(error) ? 'stopped' : 'failed';
      if (!isAbort(error)) this.problem = messageOf(error);
    } finally {
      setTimeout(end, 10_000); // its end may be told after its last byte
    }
  }

  /** End it, if it still runs. */
  stop(): void {
    this.#stop?.abort();
  }

  async #read(response: Response, stop: AbortController): Promise<void> {
    const reader = new AnswerReader(response.headers.get('Content-Type') ?? '');
    const body = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let shown = 0;
    for (;;) {
      const part = await body?.read();
      if (this.#stop !== stop) return;
      if (!part || part.done) break;
      reader.feed(part.value);
      if (performance.now() - shown < 60) continue;
      shown = performance.now();
      this.answer = reader.answer;
    }
    reader.end();
    this.answer = reader.answer;
  }
}
