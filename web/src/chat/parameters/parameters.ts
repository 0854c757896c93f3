import { keep, keptJson } from '../../state/kept';
import type { Parameters } from '../types';

const KEPT = 'llamaherd.parameters';
/** What the service takes at most for what it counts (routes/schema/generation.py). */
const MOST = 2 ** 31 - 1;

export type NumberName = Exclude<keyof Parameters, 'stop'>;

/** A number of a request: what it may be, and how it is chosen. */
export interface Field {
  name: NumberName;
  label: string;
  hint: string;
  min: number;
  max: number;
  whole?: boolean;
  /** What to know of a number above this. */
  unusual?: { above: number; hint: string };
  /** What the slider goes over, where there is one. */
  slider?: { from: number; to: number; step: number };
}

export const LENGTHS: Field[] = [
  {
    name: 'max_tokens',
    label: 'Longest answer',
    hint: 'In tokens. It ends there, finished or not.',
    min: 1,
    max: MOST,
    whole: true,
  },
  {
    name: 'ctx',
    label: 'Conversation budget',
    hint: 'Tokens for conversation and answer together. The oldest turns are left out until it fits.',
    min: 1,
    max: MOST,
    whole: true,
  },
];

export const SAMPLING: Field[] = [
  {
    name: 'temperature',
    label: 'Temperature',
    hint: '0 takes the likeliest word each time. Higher is more varied.',
    min: 0,
    max: 1000,
    unusual: { above: 2, hint: 'Above 2 most models write nonsense.' },
    slider: { from: 0, to: 2, step: 0.05 },
  },
  {
    name: 'top_p',
    label: 'Top P',
    hint: 'Only the likeliest tokens that have this probability together. 1 is all.',
    min: 0,
    max: 1,
    slider: { from: 0, to: 1, step: 0.01 },
  },
  {
    name: 'top_k',
    label: 'Top K',
    hint: 'Only so many of the likeliest tokens. 0 is all.',
    min: 0,
    max: MOST,
    whole: true,
    slider: { from: 0, to: 200, step: 1 },
  },
  {
    name: 'min_p',
    label: 'Min P',
    hint: 'Leaves out tokens below this part of the likeliest one. 0 is off.',
    min: 0,
    max: 1,
    slider: { from: 0, to: 1, step: 0.01 },
  },
  {
    name: 'typical_p',
    label: 'Typical P',
    hint: 'Prefers tokens that are about as surprising as expected. 1 is off.',
    min: 0,
    max: 1,
    slider: { from: 0, to: 1, step: 0.01 },
  },
];

export const REPETITION: Field[] = [
  {
    name: 'repeat_penalty',
    label: 'Repeat penalty',
    hint: 'Makes tokens of late less likely. 1 is off.',
    min: 0,
    max: 1000,
    slider: { from: 1, to: 2, step: 0.01 },
  },
  {
    name: 'presence_penalty',
    label: 'Presence penalty',
    hint: 'Taken once from each token that was there. 0 is off.',
    min: -2,
    max: 2,
    slider: { from: -2, to: 2, step: 0.05 },
  },
  {
    name: 'frequency_penalty',
    label: 'Frequency penalty',
    hint: 'Taken from a token for each time that it was there. 0 is off.',
    min: -2,
    max: 2,
    slider: { from: -2, to: 2, step: 0.05 },
  },
];

export const SEED: Field = {
  name: 'seed',
  label: 'Seed',
  hint: 'The same seed gives the same answer to the same conversation.',
  min: 0,
  max: MOST,
  whole: true,
};

const FIELDS = [...LENGTHS, ...SAMPLING, ...REPETITION, SEED];

/** What was typed as a number, null for nothing; or what is wrong with it, in a sentence. */
export function parse(field: Field, typed: string): { value: number | null } | { mistake: string } {
  const text = typed.trim().replace(',', '.');
  if (text === '') return { value: null };
  const value = Number(text);
  if (!Number.isFinite(value)) return { mistake: 'That is no number.' };
  if (field.whole && !Number.isInteger(value)) return { mistake: 'It must be a whole number.' };
  if (value < field.min) return { mistake: `It must be at least ${field.min}.` };
  if (value > field.max) return { mistake: `It must be at most ${field.max}.` };
  return { value };
}

/** The fields of a request that say the same; what the service would refuse is left out. */
export function fieldsOf(parameters: Parameters): Record<string, unknown> {
  return { ...valid(parameters) };
}

/** How many of them are set. */
export function countOf(parameters: Parameters): number {
  return Object.keys(valid(parameters)).length;
}

/** A seed by chance. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]! & MOST;
}

/** Line feeds and tabs of a stop text as they are typed: `\n`, `\t`. */
export function typedStop(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('\t', '\\t');
}

export function readStop(typed: string): string {
  const meant: Record<string, string> = { n: '\n', t: '\t', '\\': '\\' };
  return typed.replace(/\\([nt\\])/g, (_, letter: string) => meant[letter]!);
}

/** What new conversations begin with. */
export interface Defaults {
  parameters: Parameters;
  system: string;
}

export function keptDefaults(): Defaults {
  const { parameters, system } = (keptJson(KEPT) ?? {}) as { parameters?: unknown; system?: unknown };
  return { parameters: valid(parameters), system: typeof system === 'string' ? system : '' };
}

/** False where this browser keeps nothing. */
export function keepDefaults({ parameters, system }: Defaults): boolean {
  return keep(KEPT, JSON.stringify({ parameters: valid(parameters), system }));
}

/** Of something (a conversation that was kept or imported) what the service takes. */
export function valid(parameters: unknown): Parameters {
  const given = (typeof parameters === 'object' && parameters !== null ? parameters : {}) as Record<string, unknown>;
  const taken: Parameters = {};
  for (const field of FIELDS) {
    const value = given[field.name];
    if (typeof value === 'number' && 'value' in parse(field, String(value))) taken[field.name] = value;
  }
  const stop = Array.isArray(given.stop) ? given.stop.filter((text) => typeof text === 'string' && text !== '') : [];
  if (stop.length) taken.stop = [...new Set(stop as string[])];
  return taken;
}
