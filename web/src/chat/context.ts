import { count } from '../ui/format';
import type { Message } from './types';

/** Of English text, about. Where a model has not counted yet. */
const LETTERS_PER_TOKEN = 4;

export interface ContextUse {
  tokens: number;
  /** The model counted them all. */
  exact: boolean;
}

/** How many tokens of the context the turns of a branch take; `coming` have come of an answer that is on its way. */
export function contextUse(turns: readonly Message[], system: string, coming: number): ContextUse {
  const counted = turns.findLastIndex(({ stats }) => stats?.promptTokens != null && stats.completionTokens !== null);
  const { promptTokens, completionTokens } = turns[counted]?.stats ?? { promptTokens: null, completionTokens: null };
  const rest = turns.slice(counted + 1);
  // What an answer that is on its way has so far is in `coming`.
  const written = coming > 0 ? rest.slice(0, -1) : rest;
  const letters = written.reduce((sum, { text }) => sum + text.length, counted < 0 ? system.length : 0);
  const tokens = (promptTokens ?? 0) + (completionTokens ?? 0) + coming + Math.ceil(letters / LETTERS_PER_TOKEN);
  return { tokens, exact: rest.length === 0 && coming === 0 };
}

const TOO_LONG = "The conversation is longer than the model's context";
/** What engines say of it: tokens of the request, and of the context. */
const LENGTHS = [
  /\((\d+) tokens\) exceeds the available context size \((\d+) tokens\)/,
  /has (\d+) tokens; the (?:context )?window is (\d+)\./,
];
/** A budget that even the last turn does not fit in is said by the service so. */
const OVER_BUDGET = /the budget for prompt and answer is/;

/** In a sentence, what an engine says of a conversation that is too long. */
export function tooLong(said: string): string {
  if (OVER_BUDGET.test(said)) return said;
  const [, tokens, context] = LENGTHS.map((form) => form.exec(said)).find((found) => found) ?? [];
  return tokens ? `${TOO_LONG} (${count(Number(tokens))} of ${count(Number(context))} tokens).` : `${TOO_LONG}.`;
}

/** Whether an error of an answer says that, so that a budget, or another one, helps. */
export function isTooLong(error: string): boolean {
  return error.startsWith(TOO_LONG) || OVER_BUDGET.test(error) || LENGTHS.some((form) => form.test(error));
}
