/**
 * `read` in the objects of `known` that have the same names, in which only what differs is assigned: whoever shows the
 * rest is not told. `known` itself where no name came, went or moved.
 */
export function renewed<T extends { name: string }>(known: T[], read: readonly T[]): T[] {
  const before = new Map(known.map((one) => [one.name, one]));
  const now = read.map((one) => {
    const there = before.get(one.name);
    if (!there) return one;
    for (const key of Object.keys(one) as (keyof T)[]) {
      if (JSON.stringify(there[key]) !== JSON.stringify(one[key])) there[key] = one[key];
    }
    for (const key of Object.keys(there) as (keyof T)[]) if (!(key in one)) delete there[key];
    return there;
  });
  const same = now.length === known.length && now.every((one, at) => one === known[at]);
  return same ? known : now;
}
