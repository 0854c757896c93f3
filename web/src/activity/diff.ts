import { diffWordsWithSpace, type Change } from 'diff';

// Some 2,000 words of difference; the page stands still meanwhile (milliseconds).
const LIMITS = { maxEditLength: 4000, timeout: 150 };

/** What became of the words of `before` in `after`; null where too little is alike to be found in a moment. */
export function wordDiff(before: string, after: string, limits = LIMITS): Change[] | null {
  return diffWordsWithSpace(before, after, limits) ?? null;
}
