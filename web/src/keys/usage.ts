import type { UsageCounts, UsageReport } from '../api/types';

export type By = 'key' | 'model';
export type Span = '24h' | '7d' | '30d';
export type Measure = 'tokens' | 'requests' | 'errors';

/** What one key or model has used. */
export interface Used {
  id: string;
  name: string;
  counts: UsageCounts;
  /** The measure in each bucket. */
  values: number[];
}

export interface Usage {
  /** The beginning of each bucket, in seconds since the epoch: of a day in the time of this browser. */
  times: number[];
  /** Who used most comes first. */
  rows: Used[];
  total: UsageCounts;
}

const HOUR = 3600; // seconds
const DAY = 24 * HOUR;
const MOST_SERIES = 6; // there are as many colours

export const SPANS: { span: Span; words: string }[] = [
  { span: '24h', words: '24 hours' },
  { span: '7d', words: '7 days' },
  { span: '30d', words: '30 days' },
];

export const MEASURES: { measure: Measure; words: string }[] = [
  { measure: 'tokens', words: 'Tokens' },
  { measure: 'requests', words: 'Requests' },
  { measure: 'errors', words: 'Errors' },
];

/** What to ask the service for. */
export function usagePath(by: By, span: Span): string {
  return `/admin/usage?since=${span}&by=${bucketOf(span)},${by}`;
}

/** The report by who used what, in buckets without gaps. */
export function usageOf(report: UsageReport, by: By, span: Span, measure: Measure): Usage {
  const buckets = bucketsOf(report, span);
  const at = new Map(buckets.map((bucket, index) => [bucket, index]));
  const used = new Map<string, Used>();
  for (const row of report.rows) {
    const id = (by === 'key' ? row.key : row.model) ?? '';
    const one = used.get(id) ?? { id, name: nameOf(row, by), counts: { ...NOTHING }, values: buckets.map(() => 0) };
    used.set(id, one);
    one.counts = sum(one.counts, row);
    const bucket = at.get(secondsOf(span === '24h' ? row.hour : row.day));
    if (bucket !== undefined) one.values[bucket]! += measured(row, measure);
  }
  const rows = [...used.values()].sort(
    (one, other) => measured(other.counts, measure) - measured(one.counts, measure) || (one.name < other.name ? -1 : 1),
  );
  return { times: span === '24h' ? buckets : buckets.map(sameDayHere), rows, total: report.total };
}

/** At most as many as there are colours: the last one is all the others together. Who used nothing is left out. */
export function fewest(rows: readonly Used[]): Used[] {
  const some = rows.filter(({ values }) => values.some((value) => value > 0));
  if (some.length <= MOST_SERIES) return some;
  const rest = some.slice(MOST_SERIES - 1);
  return [
    ...some.slice(0, MOST_SERIES - 1),
    {
      id: '',
      name: `${rest.length} others`,
      counts: rest.map(({ counts }) => counts).reduce(sum),
      values: rest[0]!.values.map((_, at) => rest.reduce((whole, { values }) => whole + values[at]!, 0)),
    },
  ];
}

/** For each row its values on top of those of the rows before it. */
export function stacked(rows: readonly { values: number[] }[]): number[][] {
  const below: number[] = [];
  return rows.map(({ values }) => values.map((value, at) => (below[at] = (below[at] ?? 0) + value)));
}

export function measured(counts: UsageCounts, measure: Measure): number {
  return measure === 'tokens' ? counts.prompt_tokens + counts.completion_tokens : counts[measure];
}

const NOTHING: UsageCounts = { requests: 0, errors: 0, prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0 };

function sum(one: UsageCounts, other: UsageCounts): UsageCounts {
  return {
    requests: one.requests + other.requests,
    errors: one.errors + other.errors,
    prompt_tokens: one.prompt_tokens + other.prompt_tokens,
    cached_tokens: one.cached_tokens + other.cached_tokens,
    completion_tokens: one.completion_tokens + other.completion_tokens,
  };
}

function bucketOf(span: Span): 'hour' | 'day' {
  return span === '24h' ? 'hour' : 'day';
}

/** Hours, or days of UTC, as the service counts them. */
function bucketsOf({ since, until }: UsageReport, span: Span): number[] {
  const step = span === '24h' ? HOUR : DAY;
  const end = secondsOf(until);
  const times = [];
  for (let time = Math.floor(secondsOf(since) / step) * step; time < end; time += step) times.push(time);
  return times;
}

/** Of `2026-11-20` or `2026-11-20T18:00:00Z`; a date alone is one of UTC. */
function secondsOf(text: string | undefined): number {
  return Date.parse(text ?? '') / 1000;
}

/** The day of that date in the time of this browser, so that the chart writes the same date. */
function sameDayHere(day: number): number {
  const date = new Date(day * 1000);
  return new Date(date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate()).getTime() / 1000;
}

function nameOf(row: UsageReport['rows'][number], by: By): string {
  if (by === 'model') return row.model ?? '';
  if (row.key === '-') return 'without a key';
  return row.name ?? `${row.key} (revoked)`;
}
