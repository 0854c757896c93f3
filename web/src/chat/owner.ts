import { session } from '../state/session.svelte';
import type { Owner } from './types';

/** Whose conversations are made now; null: nobody is signed in. */
export function presentOwner(): Owner | null {
  const { caller, base } = session;
  return caller && { service: base || location.origin, key: caller.key?.id ?? null };
}

/** Whether one of `owner` is listed: what was made without a key is there for all who use the service. */
export function isListed(owner: Owner | undefined, present: Owner | null): boolean {
  if (!owner) return true;
  return owner.service === present?.service && (owner.key === null || owner.key === present.key);
}
