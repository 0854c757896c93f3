/** What half of some values, and 19 of 20, are no worse than. */
export interface Percentiles {
  p50: number;
  p95: number;
  /** Of how many. */
  count: number;
}

/** Of the values that are known; null where none is. By the nearest rank: each is a value that there was. */
export function percentilesOf(values: readonly (number | null)[], best: 'lowest' | 'highest'): Percentiles | null {
  const known = values.filter((value) => value !== null).sort((a, b) => (best === 'lowest' ? a - b : b - a));
  if (!known.length) return null;
  const at = (part: number): number => known[Math.ceil(part * known.length) - 1]!;
  return { p50: at(0.5), p95: at(0.95), count: known.length };
}
