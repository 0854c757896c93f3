import { expect, test } from 'vitest';

import type { UsageReport } from '../api/types';
import { fewest, stacked, usageOf, usagePath, type Used } from './usage';

const counts = { requests: 2, errors: 1, prompt_tokens: 30, cached_tokens: 5, completion_tokens: 12 };

const report: UsageReport = {
  since: '2026-11-18T18:00:00Z',
  until: '2026-11-21T18:20:31Z',
  rows: [
    { day: '2026-11-19', key: 'a', name: 'web', ...counts },
    { day: '2026-11-21', key: 'a', name: 'web', ...counts },
    { day: '2026-11-21', key: 'b', name: null, ...counts, completion_tokens: 1000 },
    { day: '2026-11-21', key: '-', name: null, ...counts, requests: 50 },
  ],
  total: { ...counts, requests: 56 },
};

/** Without a zone it is of this browser. */
const day = (date: string): number => Date.parse(`${date}T00:00`) / 1000;

test('days without gaps, by their dates here, and 0 where nothing was used', () => {
  const { times, rows } = usageOf(report, 'key', '7d', 'tokens');
  expect(times).toEqual(['2026-11-18', '2026-11-19', '2026-11-20', '2026-11-21'].map(day));
  expect(rows.find(({ id }) => id === 'a')!.values).toEqual([0, 42, 0, 42]);
});

test('who used most of what is measured comes first', () => {
  expect(usageOf(report, 'key', '7d', 'tokens').rows.map(({ name }) => name)).toEqual([
    'b (revoked)',
    'web',
    'without a key',
  ]);
  expect(usageOf(report, 'key', '7d', 'requests').rows[0]!.name).toBe('without a key');
});

test('all counts of one are summed up', () => {
  const web = usageOf(report, 'key', '7d', 'tokens').rows.find(({ id }) => id === 'a')!;
  expect(web.counts).toEqual({ requests: 4, errors: 2, prompt_tokens: 60, cached_tokens: 10, completion_tokens: 24 });
});

test('a day is told by hours', () => {
  expect(usagePath('model', '24h')).toBe('/admin/usage?since=24h&by=hour,model');
  const hourly = {
    ...report,
    since: '2026-11-21T16:00:00Z',
    rows: [{ hour: '2026-11-21T17:00:00Z', model: 'smol', ...counts }],
  };
  const { times, rows } = usageOf(hourly, 'model', '24h', 'requests');
  expect(times.length).toBe(3);
  expect(rows).toMatchObject([{ name: 'smol', values: [0, 2, 0] }]);
});

function used(id: string, values: number[]): Used {
  return { id, name: id, counts, values };
}

test('those for whom there is no colour are shown together', () => {
  const few = fewest([...'abcdefgh'].map((id, at) => used(id, [at + 1, 1])));
  expect(few.map(({ name }) => name)).toEqual(['a', 'b', 'c', 'd', 'e', '3 others']);
  expect(few.at(-1)!.values).toEqual([6 + 7 + 8, 3]);
});

test('who used nothing has no bar', () => {
  expect(fewest([used('a', [0, 0]), used('b', [0, 1])]).map(({ id }) => id)).toEqual(['b']);
});

test('bars stand on each other', () => {
  expect(stacked([used('a', [1, 2]), used('b', [10, 0])])).toEqual([
    [1, 2],
    [11, 2],
  ]);
});
