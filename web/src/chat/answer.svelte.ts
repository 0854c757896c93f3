import { ApiError, isAbort, messageOf, Unreachable, type Client } from '../api/client';
import { generate, type Ending } from './generate';
import type { AnswerStats, Message } from './types';

type Phase = 'waiting' | 'loading' | 'thinking' | 'writing';

/** The rate is shown anew that often: else it could not be read. Milliseconds. */
const RATE_PAUSE = 300;

interface Callbacks {
  /** The turn has grown. */
  ongrown: () => void;
  /** Nothing more comes; `error` is what went wrong. */
  onended: (error: unknown) => void;
}

/** An answer that is on its way into its turn. */
export class Answer {
  phase = $state<Phase>('waiting');
  /** Of the load, from 0 to 1. */
  progress = $state<number | null>(null);
  /** About how many tokens have come. */
  tokens = $state(0);
  /** Tokens per second. */
  rate = $state<number | null>(null);
  /** Milliseconds since the epoch. */
  readonly started = Date.now();

  #abort = new AbortController();
  #begun = performance.now();
  #firstAt: number | null = null;
  #textAt: number | null = null;
  #ratedAt = 0;
  #tokens = 0;
  #text = '';
  #reasoning = '';
  #frame: number | null = null;
  /** The answer as it was, where the model goes on with it. */
  #prefix: string;
  #former: AnswerStats | null;

  constructor(
    readonly conversation: string,
    /** Changed in place. */
    readonly message: Message,
    private readonly callbacks: Callbacks,
  ) {
    this.#prefix = message.text;
    this.#former = message.text ? message.stats : null;
  }

  /** Ends the answer; what has come of it stays. */
  stop(): void {
    this.#abort.abort();
  }

  /** To be called once; resolves when nothing more comes, and never rejects. */
  async run(client: Client, body: Record<string, unknown>): Promise<void> {
    const { message } = this;
    let error: unknown = null;
    try {
      const ending = await generate(client, body, this.#abort.signal, {
        ontext: (text) => this.#take(text, 'writing'),
        onreasoning: (text) => this.#take(text, 'thinking'),
        onloading: (progress) => {
          this.phase = 'loading';
          this.progress = progress;
        },
        onwaiting: () => {
          if (this.phase === 'loading') this.phase = 'waiting';
        },
      });
      this.apply();
      message.stats = this.#stats(ending);
    } catch (caught) {
      error = caught;
      this.apply();
      message.stats = this.#stats(null);
      if (isAbort(caught) || this.#abort.signal.aborted) message.stopped = true;
      else message.error = messageOf(caught);
    }
    this.callbacks.onended(error);
  }

  /** Put what came into the turn. */
  apply(): void {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    if (this.#text) this.message.text += this.#text;
    if (this.#reasoning) this.message.reasoning += this.#reasoning;
    this.#text = '';
    this.#reasoning = '';
    this.tokens = this.#tokens;
    const now = performance.now();
    if (this.#firstAt !== null && now - this.#ratedAt > RATE_PAUSE && this.#tokens > 1) {
      this.#ratedAt = now;
      this.rate = (1000 * (this.#tokens - 1)) / Math.max(now - this.#firstAt, 1);
    }
  }

  #take(piece: string, phase: 'thinking' | 'writing'): void {
    const now = performance.now();
    this.#firstAt ??= now;
    this.#tokens += 1;
    if (phase === 'writing') {
      if (this.#textAt === null) piece = this.#withoutPrefix(piece);
      this.#textAt ??= now;
      this.#text += piece;
    } else {
      this.#reasoning += piece;
    }
    this.phase = phase;
    // A hidden page has no frames; what it shows may wait, what is written to the disk may not.
    if (document.hidden) this.apply();
    else this.#frame ??= requestAnimationFrame(() => this.apply());
    this.callbacks.ongrown();
  }

  /** llama.cpp says what an answer had already once more, in one piece, and as its template trimmed it. */
  #withoutPrefix(piece: string): string {
    const said = this.#prefix.trim();
    if (!said || !piece.startsWith(said)) return piece;
    this.message.text = this.#prefix.trimEnd();
    return piece.slice(said.length);
  }

  #stats(ending: Ending | null): AnswerStats {
    const now = performance.now();
    const former = this.#former;
    const since = (at: number | null): number | null => (at === null ? null : (at - this.#begun) / 1000);
    const completion = ending?.completionTokens ?? (this.#tokens || null);
    const writing = this.#firstAt === null ? 0 : (now - this.#firstAt) / 1000;
    const thought = this.message.reasoning && this.#firstAt !== null;
    return {
      model: this.message.stats?.model ?? '',
      personality: this.message.stats?.personality ?? null,
      firstToken: former ? former.firstToken : since(this.#firstAt),
      thinking: former ? former.thinking : thought ? ((this.#textAt ?? now) - this.#firstAt!) / 1000 : null,
      seconds: (former?.seconds ?? 0) + (now - this.#begun) / 1000,
      // The prompt of a continuation has the answer so far in it.
      promptTokens: former?.promptTokens ?? ending?.promptTokens ?? null,
      cachedTokens: former ? former.cachedTokens : (ending?.cachedTokens ?? null),
      completionTokens: former ? sum(former.completionTokens, completion) : completion,
      tokensPerSecond:
        ending?.tokensPerSecond ?? (completion && completion > 1 && writing > 0 ? (completion - 1) / writing : null),
      finishReason: ending?.finishReason ?? null,
    };
  }
}

/** Whether the key, or the service, should be asked again what it may do. */
export function tellsOfSession(error: unknown): boolean {
  return error instanceof Unreachable || (error instanceof ApiError && error.status === 401);
}

function sum(one: number | null, other: number | null): number | null {
  return one === null && other === null ? null : (one ?? 0) + (other ?? 0);
}
