import type { Key, Scope } from '../api/types';

/** The fields of the form, as they are typed. */
export interface KeyFields {
  name: string;
  description: string;
  scopes: Scope[];
  /** False: all models. */
  limited: boolean;
  models: string[];
  requestsPerMinute: number | null;
  tokensPerDay: number | null;
  atOnce: number | null;
  priority: number | null;
  expires: Expiry;
  /** As `<input type="datetime-local">` has it, where `expires` is "date". */
  date: string;
}

export type Expiry = 'never' | '1' | '7' | '30' | '90' | '365' | 'date';

/** What POST and PATCH take. */
export interface KeyBody {
  name?: string;
  description?: string;
  scopes?: Scope[];
  models?: string[] | null;
  requests_per_minute?: number | null;
  tokens_per_day?: number | null;
  at_once?: number | null;
  priority?: number;
  expires?: number | null;
}

export const EXPIRIES: { value: Expiry; words: string }[] = [
  { value: 'never', words: 'Never' },
  { value: '1', words: 'In a day' },
  { value: '7', words: 'In a week' },
  { value: '30', words: 'In 30 days' },
  { value: '90', words: 'In 90 days' },
  { value: '365', words: 'In a year' },
  { value: 'date', words: 'At a date' },
];

const DAY = 86_400; // seconds

/** The fields of a key that there is, or of a new one. */
export function fieldsOf(key: Key | null, scopes: Scope[] = ['inference']): KeyFields {
  return {
    name: key?.name ?? '',
    description: key?.description ?? '',
    scopes: [...(key?.scopes ?? scopes)],
    limited: !!key?.models,
    models: [...(key?.models ?? [])],
    requestsPerMinute: key?.requests_per_minute ?? null,
    tokensPerDay: key?.tokens_per_day ?? null,
    atOnce: key?.at_once ?? null,
    priority: key?.priority ?? 0,
    expires: key?.expires ? 'date' : 'never',
    date: key?.expires ? localDate(key.expires) : '',
  };
}

/** All that the fields say; `now` in seconds since the epoch. */
export function bodyOf(fields: KeyFields, now: number): Required<KeyBody> {
  return {
    name: fields.name.trim(),
    description: fields.description.trim(),
    scopes: fields.scopes,
    models: fields.limited ? fields.models : null,
    requests_per_minute: fields.requestsPerMinute,
    tokens_per_day: fields.tokensPerDay,
    at_once: fields.atOnce,
    priority: fields.priority ?? 0,
    expires: expiryOf(fields, now),
  };
}

/** What is different about a key; its name can't be. An expiry that was left alone is not told anew. */
export function changesOf(key: Key, fields: KeyFields, now: number): KeyBody {
  const { name: _, ...body } = bodyOf(fields, now);
  const before = bodyOf(fieldsOf(key), now);
  const changed = Object.entries(body).filter(
    ([field, value]) => JSON.stringify(value) !== JSON.stringify(before[field as keyof KeyBody]),
  );
  return Object.fromEntries(changed);
}

/** A moment as `<input type="datetime-local">` has it, in the time of this browser. */
export function localDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function expiryOf({ expires, date }: KeyFields, now: number): number | null {
  if (expires === 'never') return null;
  if (expires === 'date') return date ? new Date(date).getTime() / 1000 : null;
  return Math.floor(now) + Number(expires) * DAY;
}
