import type { EndedRequest } from '../api/types';
import { href } from '../state/route.svelte';

type Named = Pick<EndedRequest, 'n' | 'started'>;

/** The request that an address names. */
export interface Chosen {
  n: number;
  /** The second it came in; null: the address does not say. */
  second: number | null;
}

/** The address of its details. Numbers begin at 1 with each start of the service: its time tells it from others. */
export function detailsOf({ n, started }: Named): string {
  return href('activity', String(n), String(Math.floor(started)));
}

/** The id of the link to it in the list. */
export function linkOf({ n }: Pick<Named, 'n'>): string {
  return `request-${n}`;
}

/** What the parts of an address name; null: no request. */
export function chosenOf([, n = '', second = '']: readonly string[]): Chosen | null {
  if (!isNumber(n)) return null;
  return { n: Number(n), second: isNumber(second) ? Number(second) : null };
}

export function isChosen({ n, started }: Named, chosen: Chosen | null): boolean {
  return n === chosen?.n && (chosen.second === null || chosen.second === Math.floor(started));
}

function isNumber(text: string): boolean {
  return /^\d{1,15}$/.test(text);
}
