import type { EndedRequest } from '../api/types';
import { count, rate } from '../ui/format';

export function modelOf({ model }: Pick<EndedRequest, 'model'>): string {
  return model ?? 'no model';
}

/** The tokens of a prompt, and how many of them were cached: `1,200 (1,184 cached)`. */
export function promptTokens({ prompt_tokens, cached_tokens }: EndedRequest): string {
  return cached_tokens ? `${count(prompt_tokens)} (${count(cached_tokens)} cached)` : count(prompt_tokens);
}

export function tokensPerSecond({ tokens_per_second }: EndedRequest): string {
  return tokens_per_second === null ? '–' : `${rate(tokens_per_second)}/s`;
}

/** A moment (seconds since the epoch) for a row: the time, and the day where that is another. */
export function whenOf(moment: number, now: Date): { time: string; day: string } {
  const date = new Date(moment * 1000);
  const today = date.toDateString() === now.toDateString();
  return {
    time: date.toLocaleTimeString(undefined, { hourCycle: 'h23' }),
    day: today ? '' : date.toLocaleDateString(undefined, { day: 'numeric', month: 'short' }),
  };
}
