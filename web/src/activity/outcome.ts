export type OutcomeKind = 'ok' | 'left' | 'cancelled' | 'failed';

export const KINDS: Record<OutcomeKind, { title: string; badge: string }> = {
  ok: { title: 'ok', badge: 'ok' },
  left: { title: 'client left', badge: '' },
  cancelled: { title: 'cancelled', badge: 'busy' },
  failed: { title: 'failed', badge: 'bad' },
};

/** `outcome` as the history has it: "ok", "left", "cancelled", "upstream_status", or the code of an error. */
export function kindOf(outcome: string): OutcomeKind {
  return outcome === 'ok' || outcome === 'left' || outcome === 'cancelled' ? outcome : 'failed';
}

/** An outcome in words: the code of an error becomes "context length exceeded". */
export function outcomeWords(outcome: string): string {
  if (outcome === 'upstream_status') return 'error of the engine';
  const kind = kindOf(outcome);
  return kind === 'failed' ? outcome.replaceAll('_', ' ') : KINDS[kind].title;
}
