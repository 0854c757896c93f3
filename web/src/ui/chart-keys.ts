/**
 * Where a key leads from the value of that index, of those from `first` to `last`; null: it is none of these keys.
 */
export function placeOf(key: string, at: number, first: number, last: number): number | null {
  const page = Math.max(1, Math.round((last - first) / 10));
  const steps: Record<string, number> = {
    ArrowLeft: at - 1,
    ArrowDown: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at + 1,
    PageDown: at - page,
    PageUp: at + page,
    Home: first,
    End: last,
  };
  const place = steps[key];
  return place === undefined ? null : Math.min(Math.max(place, first), last);
}
