import type { AdminModel } from '../api/types';
import { isSettled, sizeOf } from './memory';

export type Filter = 'all' | 'loaded' | 'loadable' | 'failed';
export type Order = 'state' | 'name' | 'memory';

export function matches(model: AdminModel, filter: Filter): boolean {
  switch (filter) {
    case 'all':
      return true;
    case 'loaded':
      return !isSettled(model);
    case 'loadable':
      return model.state === 'stopped' && model.unavailable === null;
    case 'failed':
      return model.state === 'failed' || model.unavailable !== null;
  }
}

/** Whether every word stands somewhere in what a model is called and said to be. */
export function contains(model: AdminModel, text: string): boolean {
  const said = [model.name, ...model.aliases, ...model.personalities, model.description ?? '', model.engine ?? '']
    .join('\n')
    .toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => said.includes(word));
}

/** The names of the models to show, in their order. */
export function listed(models: readonly AdminModel[], filter: Filter, text: string, order: Order): string[] {
  return models
    .filter((model) => matches(model, filter) && contains(model, text))
    .sort(COMPARE[order])
    .map((model) => model.name);
}

/** `names` as they are; but those of `held` where they were, as long as they exist, and new ones behind them. */
export function arranged(names: string[], held: string[] | null, exists: (name: string) => boolean): string[] {
  if (!held) return names;
  const stay = held.filter(exists);
  const known = new Set(stay);
  return [...stay, ...names.filter((name) => !known.has(name))];
}

type Compare = (one: AdminModel, other: AdminModel) => number;

const byName: Compare = (one, other) => one.name.localeCompare(other.name, 'en', { numeric: true });

const COMPARE: Record<Order, Compare> = {
  state: (one, other) => rank(one) - rank(other) || byName(one, other),
  name: byName,
  memory: (one, other) => sizeOf(other) - sizeOf(one) || byName(one, other),
};

/** Running or about to, failed, to be loaded, not to be used. */
function rank(model: AdminModel): number {
  if (!isSettled(model) || model.waiting > 0) return 0;
  if (model.unavailable !== null) return 3;
  return model.state === 'failed' ? 1 : 2;
}
