import type { Key, Scope } from '../api/types';
import { count, moment } from '../ui/format';

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

/** The fields in which each part of a key is. */
const FIELDS: Record<keyof KeyBody, (keyof KeyFields)[]> = {
  name: ['name'],
  description: ['description'],
  scopes: ['scopes'],
  models: ['limited', 'models'],
  requests_per_minute: ['requestsPerMinute'],
  tokens_per_day: ['tokensPerDay'],
  at_once: ['atOnce'],
  priority: ['priority'],
  expires: ['expires', 'date'],
};

type Value = string | number | readonly string[] | null;

const limit = (value: Value): string => (value === null ? 'no limit' : count(value as number));
const TOLD: { title: string; of: (key: Key) => Value; words: (value: Value) => string }[] = [
  { title: 'Description', of: (key) => key.description, words: (value) => (value ? `“${String(value)}”` : 'none') },
  { title: 'What it may do', of: (key) => key.scopes, words: (value) => (value as string[]).join(', ') },
  { title: 'Models', of: (key) => key.models, words: (value) => (value as string[] | null)?.join(', ') ?? 'all' },
  { title: 'Requests a minute', of: (key) => key.requests_per_minute, words: limit },
  { title: 'Tokens a day', of: (key) => key.tokens_per_day, words: limit },
  { title: 'Requests at once', of: (key) => key.at_once, words: limit },
  { title: 'Priority', of: (key) => key.priority, words: String },
  {
    title: 'Expires',
    of: (key) => key.expires,
    words: (value) => (value === null ? 'never' : moment(value as number)),
  },
];

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

/**
 * What somebody changed in a form that began with `key`; its name can't be. An expiry that was left alone is not told
 * anew, and neither is what others have changed since.
 */
export function changesOf(key: Key, fields: KeyFields, now: number): KeyBody {
  const { name: _, ...body } = bodyOf(fields, now);
  const before = bodyOf(fieldsOf(key), now);
  const changed = Object.entries(body).filter(([field, value]) => !same(value, before[field as keyof KeyBody]));
  return Object.fromEntries(changed);
}

/** The fields as those of `later`, but for what somebody changed since they were those of `key`. */
export function broughtUp(fields: KeyFields, key: Key, later: Key, now: number): KeyFields {
  const changed = Object.keys(changesOf(key, fields, now)) as (keyof KeyBody)[];
  const kept = changed.flatMap((name) => FIELDS[name]).map((field) => [field, fields[field]]);
  return { ...fieldsOf(later), ...(Object.fromEntries(kept) as Partial<KeyFields>) };
}

/** What of the key is another one than before, in words for each: `Requests a minute: 5, was no limit`. */
export function differencesOf(before: Key, after: Key): string[] {
  return TOLD.filter(({ of }) => !same(of(before), of(after))).map(
    ({ title, of, words }) => `${title}: ${words(of(after))}, was ${words(of(before))}`,
  );
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

function same(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
