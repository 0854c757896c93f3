export interface Group<T> {
  title: string;
  items: T[];
}

const DAYS_OF_A_WEEK = 7;

/** What is newest first, by when it changed (milliseconds): by day, then week, then month. */
export function byDay<T extends { changed: number }>(items: readonly T[], now: Date): Group<T>[] {
  const groups: Group<T>[] = [];
  for (const item of items) {
    const title = titleOf(new Date(item.changed), now);
    const last = groups.at(-1);
    if (last?.title === title) last.items.push(item);
    else groups.push({ title, items: [item] });
  }
  return groups;
}

function titleOf(when: Date, now: Date): string {
  // Days of the calendar, as one with a change of the clocks has no 24 hours.
  const days = Math.round((midnight(now) - midnight(when)) / 86_400_000);
  if (days <= 0) return 'Today';
  if (days === 1) return 'Yesterday';
  if (days <= DAYS_OF_A_WEEK) return 'Last 7 days';
  const sameYear = when.getFullYear() === now.getFullYear();
  return when.toLocaleDateString('en', { month: 'long', year: sameYear ? undefined : 'numeric' });
}

function midnight(date: Date): number {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}
