/** A piece of a text that two have in common, or that only the old or the new one has. */
export interface Piece {
  kind: 'same' | 'old' | 'new';
  text: string;
}

// Cells of the table below: some 25 ms and 16 MB.
const MOST_CELLS = 4_000_000;

/** What became of the words of `before` in `after`: a longest common subsequence. Long texts are compared by lines. */
export function wordDiff(before: string, after: string): Piece[] {
  return diff(words(before), words(after)) ?? diff(lines(before), lines(after)) ?? replaced(before, after);
}

function words(text: string): string[] {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

function lines(text: string): string[] {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

function replaced(before: string, after: string): Piece[] {
  return joined([
    { kind: 'old', text: before },
    { kind: 'new', text: after },
  ]);
}

/** null where that is too much work. */
function diff(before: string[], after: string[]): Piece[] | null {
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) start += 1;
  let end = 0;
  while (
    end < before.length - start &&
    end < after.length - start &&
    before[before.length - 1 - end] === after[after.length - 1 - end]
  ) {
    end += 1;
  }
  const middle = common(before.slice(start, before.length - end), after.slice(start, after.length - end));
  if (!middle) return null;
  const same = (text: string): Piece => ({ kind: 'same', text });
  return joined([
    ...before.slice(0, start).map(same),
    ...middle,
    ...before.slice(before.length - end, before.length).map(same),
  ]);
}

function common(before: string[], after: string[]): Piece[] | null {
  const width = after.length + 1;
  if ((before.length + 1) * width > MOST_CELLS) return null;
  // lengths[i * width + j]: of the longest common subsequence of what follows i in `before` and j in `after`.
  const lengths = new Uint32Array((before.length + 1) * width);
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = after.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] =
        before[i] === after[j]
          ? lengths[(i + 1) * width + j + 1]! + 1
          : Math.max(lengths[(i + 1) * width + j]!, lengths[i * width + j + 1]!);
    }
  }
  const pieces: Piece[] = [];
  let i = 0;
  let j = 0;
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i] === after[j]) {
      pieces.push({ kind: 'same', text: before[i]! });
      i += 1;
      j += 1;
    } else if (
      j === after.length ||
      (i < before.length && lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!)
    ) {
      pieces.push({ kind: 'old', text: before[i]! });
      i += 1;
    } else {
      pieces.push({ kind: 'new', text: after[j]! });
      j += 1;
    }
  }
  return pieces;
}

/** Neighbours of a kind as one, none empty. */
function joined(pieces: Piece[]): Piece[] {
  const whole: Piece[] = [];
  for (const { kind, text } of pieces) {
    const last = whole.at(-1);
    if (!text) continue;
    if (last?.kind === kind) last.text += text;
    else whole.push({ kind, text });
  }
  return whole;
}
