import type { AnswerStats } from './types';

/** Of an answer of which nothing is known but who gives it. */
export function newStats(model: string, personality: string | null = null): AnswerStats {
  return {
    model,
    personality,
    firstToken: null,
    thinking: null,
    seconds: 0,
    promptTokens: null,
    cachedTokens: null,
    completionTokens: null,
    tokensPerSecond: null,
    finishReason: null,
  };
}
