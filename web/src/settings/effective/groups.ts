import type { Setting } from '../../api/types';

export interface Group {
  section: string;
  settings: Setting[];
}

/** Those that match what is searched for, by section, in the order of the service. */
export function groupsOf(settings: readonly Setting[], search: string, onlyChanged: boolean): Group[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const groups = new Map<string, Setting[]>();
  for (const setting of settings) {
    if (onlyChanged && !isSet(setting)) continue;
    const text = [setting.name, setting.description, setting.source, valueWords(setting.value)].join(' ').toLowerCase();
    if (!words.every((word) => text.includes(word))) continue;
    groups.set(setting.section, [...(groups.get(setting.section) ?? []), setting]);
  }
  return [...groups].map(([section, settings]) => ({ section, settings }));
}

/** Whether somebody has said what it is. */
export function isSet({ source }: Setting): boolean {
  return source !== 'default';
}

/** Whether it is something else than it would be by itself. */
export function differs({ value, default: by_itself, secret }: Setting): boolean {
  return !secret && JSON.stringify(value) !== JSON.stringify(by_itself);
}

/** A value as people write it. */
export function valueWords(value: unknown): string {
  if (value === null || value === undefined) return 'none';
  if (value === '') return 'empty';
  if (typeof value === 'string') return value;
  if (Array.isArray(value) && value.every((one) => typeof one === 'string' || typeof one === 'number'))
    return value.length ? value.join(', ') : 'none';
  return JSON.stringify(value);
}
