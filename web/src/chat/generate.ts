import { ApiError, apiError, type Client } from '../api/client';
import { tooLong } from './context';
import { ThoughtSplitter } from './thoughts';

/** What is heard of an answer while it comes. */
export interface Listener {
  ontext: (text: string) => void;
  onreasoning: (text: string) => void;
  /** The model is being loaded; `progress` from 0 to 1. */
  onloading: (progress: number | null) => void;
  /** The prompt is read. */
  onwaiting: () => void;
}

/** What the end of an answer says; null is unknown. */
export interface Ending {
  finishReason: string | null;
  promptTokens: number | null;
  cachedTokens: number | null;
  completionTokens: number | null;
  tokensPerSecond: number | null;
}

interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null }; finish_reason?: string | null }[];
  usage?: {
    prompt_tokens?: number;
    completion_tokens?: number;
    prompt_tokens_details?: { cached_tokens?: number } | null;
  } | null;
  timings?: { predicted_per_second?: number } | null;
  error?: unknown;
}

/**
 * Have a chat answered (a body as of request.ts), piece by piece. Throws ApiError, also for an error within the stream,
 * Unreachable where it breaks off, AbortError where `signal` says so.
 */
export async function generate(
  client: Client,
  body: Record<string, unknown>,
  signal: AbortSignal,
  listener: Listener,
): Promise<Ending> {
  const ending: Ending = {
    finishReason: null,
    promptTokens: null,
    cachedTokens: null,
    completionTokens: null,
    tokensPerSecond: null,
  };
  let done = false;
  const splitter = goesOn(body) ? null : new ThoughtSplitter(listener.ontext, listener.onreasoning);
  const told = splitter ? { ...listener, ontext: (text: string) => splitter.take(text) } : listener;
  try {
    for await (const { comment, data } of client.stream('/v1/chat/completions', { method: 'POST', body, signal })) {
      if (comment !== null) {
        hear(comment, told);
      } else if (data === '[DONE]') {
        done = true;
      } else {
        take(parse(data), ending, told);
      }
    }
  } catch (error) {
    throw inWords(error);
  } finally {
    splitter?.end();
  }
  signal.throwIfAborted();
  if (!done && ending.finishReason === null) throw new ApiError('The answer broke off.', 502, 'upstream_closed');
  return ending;
}

/** Whether the model goes on with an answer that has begun. */
function goesOn({ messages }: Record<string, unknown>): boolean {
  const last: unknown = Array.isArray(messages) ? messages.at(-1) : null;
  return (last as { role?: unknown } | null | undefined)?.role === 'assistant';
}

/** The error, as people can do something about it. */
function inWords(error: unknown): unknown {
  if (!(error instanceof ApiError) || error.code !== 'context_length_exceeded') return error;
  const { message, status, code, param, retryAfter, details } = error;
  return new ApiError(tooLong(message), status, code, param, retryAfter, details);
}

/** A comment of docs/api.md: `loading NAME 45%`, `waiting for the model`. */
function hear(comment: string, listener: Listener): void {
  if (comment.startsWith('loading ')) {
    const percent = /(\d+)\s?%$/.exec(comment);
    listener.onloading(percent ? Number(percent[1]) / 100 : null);
  } else if (comment.startsWith('waiting')) {
    listener.onwaiting();
  }
}

function parse(data: string): Chunk {
  try {
    return JSON.parse(data) as Chunk;
  } catch {
    throw new ApiError('The service answered what is no JSON.', 502);
  }
}

function take(chunk: Chunk, ending: Ending, listener: Listener): void {
  if (chunk.error) throw apiError(502, chunk);
  const choice = chunk.choices?.[0];
  if (choice?.delta?.reasoning_content) listener.onreasoning(choice.delta.reasoning_content);
  if (choice?.delta?.content) listener.ontext(choice.delta.content);
  if (choice?.finish_reason) ending.finishReason = choice.finish_reason;
  if (chunk.usage) {
    ending.promptTokens = chunk.usage.prompt_tokens ?? null;
    ending.completionTokens = chunk.usage.completion_tokens ?? null;
    ending.cachedTokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? null;
  }
  if (chunk.timings?.predicted_per_second) ending.tokensPerSecond = chunk.timings.predicted_per_second;
}
