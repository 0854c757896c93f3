import { fireEvent, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { serve, tellers } from './doubles';
import { ended } from './fixture';
import { History } from './history.svelte';
import HistoryPanel from './HistoryPanel.svelte';
import { KeyNames } from './key-names.svelte';

const NEWEST = '/admin/requests/history?limit=100';

let tell: ReturnType<typeof tellers>;
let stop: () => void;

beforeEach(() => {
  // jsdom has none, and nothing is scrolled there.
  vi.stubGlobal(
    'IntersectionObserver',
    class {
      observe(): void {}
      disconnect(): void {}
    },
  );
  tell = tellers();
});

afterEach(() => {
  stop();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

async function start(count: number) {
  const requests = Array.from({ length: count }, (_, at) => ended(count - at));
  const service = serve({ [NEWEST]: { requests } });
  const history = new History();
  stop = history.follow();
  render(HistoryPanel, { history, keys: new KeyNames(), chosen: null });
  await vi.waitFor(() => expect(screen.getAllByRole('row')).toHaveLength(Math.min(count, 100) + 1));
  return { ...service, history };
}

test('what another tab forgets goes while somebody reads, with what was held back', async () => {
  const { answers, history } = await start(1);
  history.reading = true;
  tell('request', { ...ended(2), state: 'ended' });
  await screen.findByRole('button', { name: '1 new' });
  answers[NEWEST] = { requests: [] };
  tell('history', { forgotten: 2 });
  await screen.findByText('The list is empty');
  expect([history.rows, history.fresh]).toEqual([[], []]);
});

test('the figures are those of the requests that the filter lets through', async () => {
  const { history } = await start(3);
  history.filter.text = 'id-2';
  await vi.waitFor(() => expect(screen.getAllByRole('row')).toHaveLength(2));
  const [first, duration, speed] = screen.getAllByRole('definition').map((one) => one.textContent);
  expect([first, duration, speed]).toEqual(['p50 3.0 s p95 3.0 s', 'p50 10 s p95 10 s', 'p50 10.0/s p95 10.0/s']);
  await fireEvent.click(screen.getByRole('button', { name: 'Clear the filter' }));
  expect(screen.getAllByRole('row')).toHaveLength(4);
});

test('a time that was chosen is told and taken back', async () => {
  const { history } = await start(2);
  await history.choose([1011.5, 1020]);
  await vi.waitFor(() => expect(screen.getAllByRole('row')).toHaveLength(2));
  await fireEvent.click(screen.getByRole('button', { name: /^Show all times again/ }));
  expect(history.filter.span).toBeNull();
  expect(screen.getAllByRole('row')).toHaveLength(3);
});

test('a header sorts the rows that were read, and says so', async () => {
  const { history } = await start(100);
  const status = () => screen.getByRole('status').textContent;
  const order = (name: string) => screen.getByRole('columnheader', { name }).getAttribute('aria-sort');
  const row = (at: number) => screen.getAllByRole('row').at(at)!.textContent;
  expect(order('Time')).toBe('descending');
  history.rows = history.rows.map((request) => (request.n === 42 ? { ...request, seconds: 99 } : request));
  await fireEvent.click(screen.getByRole('button', { name: 'Duration' }));
  expect(order('Time')).toBeNull();
  expect(order('Duration')).toBe('descending');
  expect(row(1)).toContain('1 min 39 s');
  expect(status()).toContain('by duration, longest first: only those that were read are sorted');
  await fireEvent.click(screen.getByRole('button', { name: 'Duration' }));
  expect(row(-1)).toContain('1 min 39 s');
  await fireEvent.click(screen.getByRole('button', { name: 'Time' }));
  expect(status()).not.toContain('by ');
});

test('on a narrow page a list of orders sorts them', async () => {
  vi.stubGlobal('matchMedia', () => ({ matches: true, addEventListener: vi.fn(), removeEventListener: vi.fn() }));
  const requests = [ended(2), ended(1, { seconds: 20 })];
  serve({ [NEWEST]: { requests } });
  const history = new History();
  stop = history.follow();
  render(HistoryPanel, { history, keys: new KeyNames(), chosen: null });
  await fireEvent.click(await screen.findByRole('button', { name: 'Filter and sort' }));
  const orders = screen.getByRole('combobox', { name: 'Sort by' });
  await fireEvent.change(orders, { target: { value: 'duration descending' } });
  expect(history.shown.map(({ n }) => n)).toEqual([1, 2]);
  expect(screen.getAllByRole('listitem')[0]!.textContent).toContain('20 s');
});
