import { count, rate, seconds } from '../ui/format';
import type { AnswerStats, Message } from './types';

/** Whose answer it is. */
export function nameOf({ stats, edited }: Message): string {
  return (stats?.model || 'Answer') + (edited ? ' (edited)' : '');
}

/** How an answer came about, in a few words. */
export function inShort({ completionTokens, tokensPerSecond, firstToken, seconds: whole }: AnswerStats): string {
  const parts = [];
  if (tokensPerSecond !== null) parts.push(`${rate(tokensPerSecond)} tok/s`);
  if (completionTokens !== null) parts.push(tokens(completionTokens));
  parts.push(firstToken === null ? seconds(whole) : `first after ${seconds(firstToken)}`);
  return parts.join(' · ');
}

/** All that is known of it. */
export function inFull(stats: AnswerStats): [string, string][] {
  return [
    ['Model', stats.model + (stats.personality === null ? '' : ` (${stats.personality})`)],
    ['First token after', seconds(stats.firstToken)],
    ...(stats.thinking === null ? [] : [['Thought for', seconds(stats.thinking)] as [string, string]]),
    ['Whole answer', seconds(stats.seconds)],
    ['Speed', stats.tokensPerSecond === null ? '–' : `${rate(stats.tokensPerSecond)} tokens/s`],
    ['Prompt', tokens(stats.promptTokens)],
    ...(stats.cachedTokens === null ? [] : [['Of it cached', tokens(stats.cachedTokens)] as [string, string]]),
    ['Answer', tokens(stats.completionTokens)],
    ['Ended by', endOf(stats.finishReason)],
  ];
}

function tokens(many: number | null): string {
  return `${count(many)} ${many === 1 ? 'token' : 'tokens'}`;
}

function endOf(reason: string | null): string {
  if (reason === 'stop') return 'the model';
  if (reason === 'length') return 'the token limit';
  return reason ?? '–';
}

/** Why an answer is not whole, in a sentence; null: it is, or still comes. */
export function cutOff(message: Message, limit: number | undefined): string | null {
  if (message.error !== null || message.stats === null) return null;
  if (message.stopped) return 'Stopped.';
  if (message.stats.finishReason === 'length') {
    return limit !== undefined && (message.stats.completionTokens ?? 0) >= limit
      ? `Cut off at the longest answer that is set (${count(limit)} tokens).`
      : 'Cut off: the answer reached the token limit, or the context is full.';
  }
  return message.stats.finishReason === null ? 'Not finished.' : null;
}
