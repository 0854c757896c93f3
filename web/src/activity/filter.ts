import type { EndedRequest } from '../api/types';
import { kindOf } from './outcome';

/** Empty: everything. */
export interface Filter {
  model: string;
  /** The id of a key, or NO_KEY. */
  key: string;
  /** "ok", "left", "cancelled", "failed" (any error), or the code of an error. */
  outcome: string;
  /** A part of the id of the request. */
  text: string;
}

/** Requests without a key have this as theirs in a filter: no id looks so. */
export const NO_KEY = '-';

export function emptyFilter(): Filter {
  return { model: '', key: '', outcome: '', text: '' };
}

export function isEmpty(filter: Filter): boolean {
  return !filter.model && !filter.key && !filter.outcome && !filter.text.trim();
}

export function filtered(requests: readonly EndedRequest[], filter: Filter): EndedRequest[] {
  const text = filter.text.trim().toLowerCase();
  return requests.filter(
    (request) =>
      (!filter.model || request.model === filter.model) &&
      (!filter.key || (request.key ?? NO_KEY) === filter.key) &&
      (!filter.outcome || request.outcome === filter.outcome || kindOf(request.outcome) === filter.outcome) &&
      (!text || request.id.toLowerCase().includes(text)),
  );
}

/** What there is to choose of: each once, in order. */
export function choices(requests: readonly EndedRequest[], of: (request: EndedRequest) => string): string[] {
  return [...new Set(requests.map(of))].sort((a, b) => a.localeCompare(b));
}
