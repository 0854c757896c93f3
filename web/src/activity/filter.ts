import type { EndedRequest } from '../api/types';
import type { Span } from '../ui/chart';
import { kindOf, outcomeWords } from './outcome';
import { isWithin } from './span';
import { modelOf } from './words';

/** Empty: everything. */
export interface Filter {
  /** Its name, or NO_MODEL. */
  model: string;
  /** The id of a key, or NO_KEY. */
  key: string;
  /** "ok", "left", "cancelled", "failed" (any error), or the code of an error. */
  outcome: string;
  /** Words that all have to be in what is written of the request, or in its id. */
  text: string;
  /** When it was there. */
  span: Span | null;
}

/** Requests without a model have this as theirs in a filter: no name has a comma. */
export const NO_MODEL = ',';
/** The same for keys: no id looks so. */
export const NO_KEY = '-';

export function emptyFilter(): Filter {
  return { model: '', key: '', outcome: '', text: '', span: null };
}

export function isEmpty(filter: Filter): boolean {
  return !filter.model && !filter.key && !filter.outcome && !filter.text.trim() && !filter.span;
}

/** `keyName`: what a key is called. */
export function filtered(
  requests: readonly EndedRequest[],
  filter: Filter,
  keyName: (id: string | null) => string | null = (id) => id,
): EndedRequest[] {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return requests.filter(
    (request) =>
      (!filter.model || (request.model ?? NO_MODEL) === filter.model) &&
      (!filter.key || (request.key ?? NO_KEY) === filter.key) &&
      (!filter.outcome || request.outcome === filter.outcome || kindOf(request.outcome) === filter.outcome) &&
      (!words.length || isSaid(words, request, keyName(request.key))) &&
      (!filter.span || isWithin(request, filter.span)),
  );
}

function isSaid(words: string[], request: EndedRequest, key: string | null): boolean {
  const { id, route, outcome } = request;
  const said = [id, modelOf(request), key ?? 'no key', route, outcome, outcomeWords(outcome)].join('\n').toLowerCase();
  return words.every((word) => said.includes(word));
}

/** What there is to choose of: each once, in order. */
export function choices(requests: readonly EndedRequest[], of: (request: EndedRequest) => string): string[] {
  return [...new Set(requests.map(of))].sort((a, b) => a.localeCompare(b));
}
