import { turnOf, type Messages } from './tree';
import type { Message } from './types';

/** Make turns what is stored, but for those of which this page knows better. */
export function merge(messages: Messages, stored: readonly Message[], isOwn: (id: string) => boolean): void {
  for (const message of stored) {
    const known = turnOf(messages, message.id);
    if (!known) messages[message.id] = message;
    // Images never change, and are large.
    else if (!isOwn(message.id)) Object.assign(known, { ...message, images: known.images });
  }
  const there = new Set(stored.map(({ id }) => id));
  for (const id of Object.keys(messages)) if (!there.has(id) && !isOwn(id)) delete messages[id];
}
