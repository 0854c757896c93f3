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
