import type { AdminModel, AdminModelDetails, ServedModel } from '../api/types';
import { bytes, device, seconds } from '../ui/format';
import { isDevice, isLeaving, isSettled, lacksOf } from './memory';

/** Whole seconds, for what is counted down. */
export function left(duration: number): string {
  const whole = Math.max(0, Math.ceil(duration));
  return whole < 60 ? `${whole} s` : seconds(whole);
}

export function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}

/** `a`, `a and b`, `a, b and c`. */
export function list(words: readonly string[]): string {
  return words.length < 2 ? (words[0] ?? '') : `${words.slice(0, -1).join(', ')} and ${words.at(-1)}`;
}

/** Bytes by device: `1.2 GiB of GPU 0 and 300 MiB of memory`. */
export function amounts(devices: Record<string, number>): string {
  return list(
    Object.entries(devices)
      .filter(([name, size]) => isDevice(name) && size > 0)
      .map(([name, size]) => `${bytes(size)} of ${name === 'host' ? 'memory' : device(name)}`),
  );
}

export function engineName(engine: string | null): string | null {
  return engine === 'llama' ? 'llama.cpp' : engine === 'hf' ? 'Hugging Face' : engine;
}

const KINDS = { chat: 'chat', completion: 'completion', embedding: 'embeddings', rerank: 'reranking' };

/** What a model is for. Whoever chats completes, too. */
export function kind(served: ServedModel | undefined): string | null {
  if (!served) return null;
  const tasks = served.tasks.filter((task) => task !== 'completion' || !served.tasks.includes('chat'));
  return tasks.map((task) => KINDS[task]).join(', ') || null;
}

/** Where it runs; null where it does not. */
export function place(model: AdminModel): string | null {
  if (isSettled(model)) return null;
  if (model.device) return `on ${device(model.device)}`;
  const names = Object.entries({ ...model.memory.expected, ...model.memory.measured }).filter(([, size]) => size > 0);
  const where = names.map(([name]) => (name === 'host' ? 'in memory' : `on ${device(name)}`));
  return list(where) || null;
}

/** What a model is about at the moment, where that is more than its state. */
export function stage(model: AdminModel, now: number): string | null {
  switch (model.state) {
    case 'starting': {
      const step =
        model.progress === null ? 'Starting the engine' : model.progress < 1 ? 'Loading the weights' : 'Getting ready';
      const before = model.load_seconds === null ? '' : `, ${seconds(model.load_seconds)} last time`;
      return `${step}: ${left(now - model.since)} so far${before}`;
    }
    case 'draining':
      return model.in_flight ? `Finishes ${count(model.in_flight, 'request')}` : 'About to unload';
    case 'stopping':
      return 'Giving its memory back';
    case 'ready':
      return model.yielding ? 'Makes room for another model when its requests are done' : null;
    case 'stopped':
      return model.waiting ? `Waiting for room: ${count(model.waiting, 'request')}` : null;
    case 'failed':
      return model.waiting ? `Tried again soon: ${count(model.waiting, 'request')} waiting` : null;
  }
}

/** When a ready model that nobody uses is unloaded; null where it is used or stays. */
export function idle(model: AdminModel, now: number): string | null {
  if (model.state !== 'ready' || model.unloads_at === null) return null;
  return model.unloads_at > now ? `Unloads in ${left(model.unloads_at - now)}` : 'Unloads now';
}

/** When a model that failed is tried again. */
export function retry(model: AdminModel, now: number): string | null {
  if (!model.last_error) return null;
  const at = model.last_error.retry_at;
  if (at === null) return 'Not tried again until somebody loads it.';
  if (at <= now) return model.pinned ? 'Tried again now.' : 'Tried again at the next request.';
  return model.pinned ? `Tried again in ${left(at - now)}.` : `Requests may try it again in ${left(at - now)}.`;
}

/** Why requests that name no model get this one. */
export function byDefault({ active }: AdminModel): string {
  const why = active ? 'Somebody loaded it last, not a request.' : 'By the setting model.name, or as the first of all.';
  return `Requests that name no model get this one. ${why}`;
}

const REMEMBERED = 600; // seconds

/** For whom a model that is not loaded had to go a short while ago. */
export function eviction({ state, evicted, pinned }: AdminModel, now: number): string | null {
  if (state !== 'stopped' || !evicted) return null;
  const gone = Math.max(0, now - evicted.at);
  if (gone >= REMEMBERED) return null;
  const when = gone < 60 ? `${Math.floor(gone)} s` : `${Math.floor(gone / 60)} min`;
  return `Unloaded ${when} ago for ${evicted.for}.${pinned ? '' : ' Pin it to keep it loaded.'}`;
}

export interface Outlook {
  /** Whether it is to be asked first. */
  ask: boolean;
  /** Those that run, are pinned, and so are in its way. */
  pinned: string[];
  text: string;
}

/** What loading a model would take, and who of `models` would go for it or is in its way. */
export function outlook(model: AdminModelDetails, models: readonly AdminModel[]): Outlook {
  const takes = amounts(model.needed ?? {});
  const needs = takes ? `It needs ${takes}.` : 'What it needs is not known.';
  const victims = model.would_evict;
  if (victims === null) {
    const pinned = obstacles(model, models);
    return { ask: true, pinned, text: `It can't be loaded now. ${needs} ${obstacle(model, pinned)}` };
  }
  if (victims?.length) {
    const text = `${needs} ${list(victims)} will be unloaded for it.${comebacks(model, models)}`;
    return { ask: true, pinned: [], text };
  }
  return { ask: false, pinned: [], text: `${needs} Nothing is unloaded for it.` };
}

/** That those which go for a model may be wanted again at once, where they are used. */
function comebacks(model: AdminModelDetails, models: readonly AdminModel[]): string {
  const used = models.filter((one) => model.would_evict?.includes(one.name) && one.in_flight + one.waiting > 0);
  if (!used.length) return '';
  const names = list(used.map(({ name }) => name));
  const words = used.length === 1 ? `${names} is in use: its next request` : `${names} are in use: their next requests`;
  return ` ${words} may unload ${model.name} again${model.pinned ? '.' : ', unless it is pinned.'}`;
}

/** The pinned models that run, and may therefore be in the way of one that would fit without them. */
function obstacles(model: AdminModelDetails, models: readonly AdminModel[]): string[] {
  if (lacksOf(model).length) return [];
  return models.filter((one) => one.pinned && one.name !== model.name && !isSettled(one)).map(({ name }) => name);
}

function obstacle(model: AdminModelDetails, pinned: readonly string[]): string {
  const there = amounts(Object.fromEntries(lacksOf(model).map(({ device: name, room }) => [name, room])));
  if (there) return `All models together may have ${there}.`;
  if (!pinned.length) return 'Models that are pinned stay.';
  return `${list(pinned)} ${pinned.length === 1 ? 'is pinned and stays' : 'are pinned and stay'}.`;
}

/** For whom of `models` a model that is to be loaded waits; null where that is not told. */
export function waitsFor(model: AdminModelDetails, models: readonly AdminModel[]): string | null {
  const others = models.filter(({ name }) => name !== model.name);
  const goes = others.filter(({ name }) => model.would_evict?.includes(name));
  const leaving = others.filter((one) => isLeaving(one) || one.yielding);
  const ends = (goes.length ? goes : leaving).map((one) =>
    one.in_flight ? `${one.name} to finish ${count(one.in_flight, 'request')}` : `${one.name} to unload`,
  );
  return ends.length ? `Waiting for ${list(ends)}` : null;
}
