import type { EndedRequest } from '../api/types';
import { endOf } from './span';

export type Column = 'time' | 'duration' | 'first_token' | 'prompt' | 'answer' | 'speed';

export interface Sort {
  column: Column;
  descending: boolean;
}

type Value = (request: EndedRequest) => number | null;

/** `descending`, `ascending`: what either order is called. */
export const COLUMNS: Record<Column, { title: string; descending: string; ascending: string; value: Value }> = {
  time: { title: 'Time', descending: 'newest first', ascending: 'oldest first', value: endOf },
  duration: {
    ...{ title: 'Duration', descending: 'longest first', ascending: 'shortest first' },
    value: ({ seconds }) => seconds,
  },
  first_token: {
    ...{ title: 'First token', descending: 'longest first', ascending: 'shortest first' },
    value: (request) => request.first_token,
  },
  prompt: {
    ...{ title: 'Prompt', descending: 'most tokens first', ascending: 'fewest tokens first' },
    value: ({ prompt_tokens }) => prompt_tokens,
  },
  answer: {
    ...{ title: 'Answer', descending: 'most tokens first', ascending: 'fewest tokens first' },
    value: ({ completion_tokens }) => completion_tokens,
  },
  speed: {
    ...{ title: 'Speed', descending: 'fastest first', ascending: 'slowest first' },
    value: ({ tokens_per_second }) => tokens_per_second,
  },
};

/** As they come from the service. */
export const NEWEST: Readonly<Sort> = { column: 'time', descending: true };

export function isNewest({ column, descending }: Sort): boolean {
  return column === NEWEST.column && descending === NEWEST.descending;
}

/** What a press on the header of a column makes of it: the greatest first, then the other way round. */
export function pressed({ column, descending }: Sort, on: Column): Sort {
  return { column: on, descending: column === on ? !descending : true };
}

/** Of requests that come newest first. Those of which the value is not known are last, either way. */
export function sorted(requests: readonly EndedRequest[], sort: Sort): readonly EndedRequest[] {
  if (isNewest(sort)) return requests;
  const { value } = COLUMNS[sort.column];
  return requests.toSorted((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    return sort.descending ? b - a : a - b;
  });
}

/** `speed, fastest first` */
export function sortWords({ column, descending }: Sort): string {
  const { title, ...words } = COLUMNS[column];
  return `${title.toLowerCase()}, ${descending ? words.descending : words.ascending}`;
}
