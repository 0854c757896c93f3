import { keep, keptJson } from '../state/kept';
import { OF_KEY } from '../state/session.svelte';

const NAME = `${OF_KEY}drafts`;
const MOST = 50;
const LONGEST = 30 * 24 * 3600 * 1000; // milliseconds

/** A turn in other words: what it says, and what it is to say. */
export interface KeptEdit {
  message: string;
  original: string;
  text: string;
}

/** What was typed in a conversation and not sent, as localStorage has it. */
export interface KeptDraft {
  /** An Owner, as JSON. */
  owner: string;
  conversation: string;
  text: string;
  edits: KeptEdit[];
  /** Milliseconds since the epoch. */
  at: number;
}

/** Newest first. */
export function keptDrafts(): KeptDraft[] {
  const drafts = keptJson(NAME);
  const since = Date.now() - LONGEST;
  return Array.isArray(drafts) ? drafts.filter(isDraft).filter(({ at }) => at > since) : [];
}

function isDraft(one: unknown): one is KeptDraft {
  const { text, edits } = (one ?? {}) as Partial<KeptDraft>;
  return typeof text === 'string' && Array.isArray(edits);
}

/** Keep these beside what is kept, and nothing of those for which `isOld`. The newest are kept. */
export function keepDrafts(drafts: readonly KeptDraft[], isOld: (draft: KeptDraft) => boolean): void {
  const all = [...drafts, ...keptDrafts().filter((draft) => !isOld(draft))];
  keep(NAME, all.length ? JSON.stringify(all.slice(0, MOST)) : null);
}
