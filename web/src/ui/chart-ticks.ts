/** What the numbers on an axis go by: any, whole ones, or bytes. */
export type Steps = 'any' | 'whole' | 'bytes';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;

const ROUND = [1, 2, 5];
const TENS = [1, 10, 100, 1000].flatMap((power) => ROUND.map((step) => step * power));

/** The distances from one tick to the next that have round numbers, all of them told apart by their labels. */
export const INCREMENTS: Record<Steps, number[]> = {
  any: [0.1, 0.2, 0.5, ...millions()],
  whole: millions(),
  bytes: [
    ...TENS.filter((step) => step <= 100).map((step) => step * MIB),
    ...[0.2, 0.5, ...TENS].map((step) => step * GIB),
  ],
};

/** The least upper end of an axis. */
export const LEAST: Record<Steps, number> = { any: 1, whole: 4, bytes: 10 * MIB };

const CLOCK = [
  ...[1, 2, 5, 10, 15, 30],
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * MINUTE),
  ...[1, 2, 3, 6, 12, 24].map((hours) => hours * HOUR),
];
const DATES = [1, 2, 3, 7, 14, 28].map((days) => days * DAY);

function millions(): number[] {
  return Array.from({ length: 13 }, (_, power) => ROUND.map((step) => step * 10 ** power)).flat();
}

/** The distances of an axis of so many seconds. */
export function timeIncrements(length: number): number[] {
  return isDates(length) ? DATES : CLOCK;
}

/** Whether days are what counts on an axis of so many seconds. */
export function isDates(length: number): boolean {
  return length > 2 * DAY;
}

/** A moment in the time of this browser, as precise as ticks at such a distance (seconds) need it. */
export function moment(when: number, distance: number): string {
  const date = new Date(when * 1000);
  if (distance >= DAY) return date.toLocaleDateString(undefined, { day: 'numeric', month: 'short' });
  const second = distance < MINUTE ? '2-digit' : undefined;
  return date.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second, hourCycle: 'h23' });
}

/** The sizes of ticks at such a distance, all in one unit. */
export function sizeLabel(size: number, distance: number): string {
  if (size === 0) return '0';
  const [unit, name] = distance < INCREMENTS.bytes.find((one) => one > 100 * MIB)! ? [MIB, 'MiB'] : [GIB, 'GiB'];
  return `${Math.round((size / unit) * 10) / 10} ${name}`;
}
