import { newId } from '../ids';
import { fenced } from '../compose/text-files';
import { BadImport, isFields, isId, isImage, shortTitle, type Fields } from '../reading';
import { UNTITLED } from '../titles';
import { newStats } from '../stats';
import { newestLeaf, rooted, type Messages } from '../tree';
import type { ChatImage, Conversation } from '../types';

const CIRCLE = 'A turn in it follows itself.';

/** A turn of another program, as far as it is known. */
export interface ForeignTurn {
  id: string;
  parent: string | null;
  role: string;
  text: string;
  reasoning?: string;
  images?: string[];
  /** Of files that went with it. */
  texts?: { name: string; text: string }[];
  /** Milliseconds since the epoch. */
  at: number | null;
  model?: string | null;
}

export interface ForeignConversation {
  id: unknown;
  title: unknown;
  created: number | null;
  changed: number | null;
  system?: unknown;
  turns: ForeignTurn[];
  /** The turn that is shown last. */
  leaf: unknown;
}

/**
 * The same conversation here; null: nothing was said in it. Turns of tools and the like are left out, and what follows
 * them follows the turn before. Throws BadImport for turns that follow themselves.
 */
export function conversationOf(foreign: ForeignConversation): Conversation | null {
  const given = new Map(foreign.turns.map((turn) => [turn.id, turn]));
  const kept = new Map(foreign.turns.filter(isSaid).map((turn) => [turn.id, turn]));
  if (!kept.size) return null;
  const id = typeof foreign.id === 'string' && isId(foreign.id) ? foreign.id : newId();
  const ids = new Map([...kept.keys()].map((one) => [one, isId(one) ? one : newId()]));
  const before = (turn: string | null): string | null => nearest(turn, given, (one) => kept.has(one));
  const created = foreign.created ?? foreign.changed ?? Date.now();
  const messages: Messages = {};
  for (const turn of kept.values()) {
    const parent = before(turn.parent);
    const message = ids.get(turn.id)!;
    messages[message] = {
      id: message,
      parent: parent === null ? null : ids.get(parent)!,
      role: turn.role as 'user' | 'assistant',
      text: [turn.text, ...(turn.texts ?? []).map(({ name, text }) => fenced(name, text))].filter(Boolean).join('\n\n'),
      reasoning: turn.reasoning ?? '',
      images: imagesOf(turn, message),
      at: turn.at ?? created,
      stats: turn.role === 'assistant' && turn.model ? { ...newStats(turn.model), finishReason: 'stop' } : null,
      stopped: false,
      error: null,
    };
  }
  if (rooted(Object.values(messages)).length < kept.size) throw new BadImport(CIRCLE);
  const leaf = typeof foreign.leaf === 'string' ? before(foreign.leaf) : null;
  const said = foreign.turns.find(({ role, text }) => role === 'system' && text.trim())?.text;
  return {
    id,
    title: (typeof foreign.title === 'string' && shortTitle(foreign.title.trim())) || UNTITLED,
    named: true,
    created,
    changed: foreign.changed ?? created,
    // Models there are not those here.
    model: null,
    personality: null,
    system: typeof foreign.system === 'string' && foreign.system.trim() ? foreign.system : (said ?? ''),
    parameters: {},
    second: null,
    pair: null,
    messages,
    leaf: leaf === null ? newestOf(messages) : ids.get(leaf)!,
  };
}

/** A time in milliseconds of one in seconds, or null. */
export function fromSeconds(value: unknown): number | null {
  return typeof value === 'number' ? milliseconds(value * 1000) : null;
}

export function milliseconds(value: unknown): number | null {
  return typeof value === 'number' && value > 0 && value < 8.64e15 ? Math.round(value) : null;
}

export function textOr(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** The objects of a list. */
export function objectsIn(value: unknown): Fields[] {
  return Array.isArray(value) ? value.filter(isFields) : [];
}

function isSaid({ role, text, images, texts }: ForeignTurn): boolean {
  return (role === 'user' || role === 'assistant') && (text.trim() !== '' || !!images?.length || !!texts?.length);
}

/** A turn itself or the nearest one before it that is kept. */
function nearest(id: string | null, turns: Map<string, ForeignTurn>, isKept: (id: string) => boolean): string | null {
  const seen = new Set<string>();
  for (let at = id; at !== null; at = turns.get(at)?.parent ?? null) {
    if (seen.has(at)) throw new BadImport(CIRCLE);
    seen.add(at);
    if (isKept(at)) return at;
  }
  return null;
}

function newestOf(messages: Messages): string {
  const last = Object.values(messages).reduce((one, other) => (other.at >= one.at ? other : one));
  return newestLeaf(messages, last.id);
}

function imagesOf({ images = [] }: ForeignTurn, message: string): ChatImage[] {
  return images
    .filter(isImage)
    .map((url, at) => ({ id: `${message.slice(0, 90)}-${at + 1}`, name: `Image ${at + 1}`, url }));
}
