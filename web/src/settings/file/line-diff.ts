import { structuredPatch } from 'diff';

export interface DiffLine {
  kind: 'same' | 'added' | 'removed';
  text: string;
  /** Its number in the old and in the new text. */
  before: number | null;
  after: number | null;
}

const CONTEXT = 3; // lines around what has changed

/** The parts of two texts that differ, each with the lines around it. */
export function differences(before: string, after: string): DiffLine[][] {
  return structuredPatch('', '', before, after, '', '', { context: CONTEXT }).hunks.map((hunk) => {
    let old = hunk.oldStart;
    let now = hunk.newStart;
    return hunk.lines.flatMap((line): DiffLine[] => {
      const text = line.slice(1);
      if (line.startsWith('+')) return [{ kind: 'added', text, before: null, after: now++ }];
      if (line.startsWith('-')) return [{ kind: 'removed', text, before: old++, after: null }];
      if (line.startsWith(' ')) return [{ kind: 'same', text, before: old++, after: now++ }];
      return []; // "\ No newline at end of file"
    });
  });
}
