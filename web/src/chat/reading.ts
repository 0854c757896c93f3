/** Reads values of which nothing is known. `at` names one, for people. */

/** A file that is not what it should be; the message says where, for people. */
export class BadImport extends Error {}

export type Fields = Record<string, unknown>;

const LONGEST_TITLE = 200;
/** What a Date can be, in milliseconds. */
const LAST_TIME = 8.64e15;
const IMAGE = /^data:image\/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]*={0,2}$/;

export function isFields(value: unknown): value is Fields {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

export function object(value: unknown, at: string): Fields {
  if (!isFields(value)) throw new BadImport(`${at} must be an object.`);
  return value;
}

export function list(value: unknown, at: string): unknown[] {
  if (!Array.isArray(value)) throw new BadImport(`${at} must be a list.`);
  return value;
}

export function string(value: unknown, at: string): string {
  if (typeof value !== 'string') throw new BadImport(`${at} must be a text.`);
  return value;
}

export function number(value: unknown, at: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new BadImport(`${at} must be a number.`);
  return value;
}

export function time(value: unknown, at: string): number {
  const milliseconds = number(value, at);
  if (milliseconds < 0 || milliseconds > LAST_TIME) throw new BadImport(`${at} must be milliseconds since 1970.`);
  return milliseconds;
}

/** An id is part of addresses, and a name in a record. */
export function idOf(value: unknown, at: string): string {
  const id = string(value, at);
  if (!isId(id)) throw new BadImport(`${at} must be letters, digits, "_" or "-".`);
  return id;
}

export function isId(id: string): boolean {
  return /^[\w-]{1,100}$/.test(id) && id !== '__proto__';
}

export function isImage(url: unknown): url is string {
  return typeof url === 'string' && IMAGE.test(url);
}

export function nullable<T>(read: (value: unknown, at: string) => T): (value: unknown, at: string) => T | null {
  return (value, at) => (value === null ? null : read(value, at));
}

/** A title that is too long for any list is shortened. */
export function shortTitle(title: string): string {
  return title.length > LONGEST_TITLE ? Array.from(title).slice(0, LONGEST_TITLE).join('') : title;
}
