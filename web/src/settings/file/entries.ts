/** What is different between two texts of models.json, by the names of their entries. */
export interface EntryChanges {
  added: string[];
  removed: string[];
  changed: string[];
}

/** Null where a text is no JSON object. */
export function entryChanges(before: string, after: string): EntryChanges | null {
  const one = entriesOf(before);
  const other = entriesOf(after);
  if (!one || !other) return null;
  return {
    added: [...other.keys()].filter((name) => !one.has(name)),
    removed: [...one.keys()].filter((name) => !other.has(name)),
    changed: [...other.keys()].filter((name) => one.has(name) && one.get(name) !== other.get(name)),
  };
}

/** As `Added a, b. Removed c.` */
export function changeWords(changes: EntryChanges | null): string {
  const said = [
    changes?.added.length && `Added ${changes.added.join(', ')}.`,
    changes?.changed.length && `Changed ${changes.changed.join(', ')}.`,
    changes?.removed.length && `Removed ${changes.removed.join(', ')}.`,
  ].filter(Boolean);
  return said.length ? said.join(' ') : 'No model has changed.';
}

function entriesOf(text: string): Map<string, string> | null {
  try {
    const file: unknown = JSON.parse(text);
    if (file === null || typeof file !== 'object' || Array.isArray(file)) return null;
    return new Map(
      Object.entries(file)
        .filter(([name]) => name !== '$schema')
        .map(([name, entry]) => [name, JSON.stringify(entry)]),
    );
  } catch {
    return null;
  }
}
