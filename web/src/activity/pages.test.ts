import { expect, test } from 'vitest';

import { ended } from './fixture';
import { merged, renewed, withCaptures } from './pages';

const numbers = (requests: { n: number }[]) => requests.map(({ n }) => n);

test('pages and live additions are one list, newest first, each once', () => {
  const older = [ended(3), ended(2)];
  expect(numbers(merged(older, [ended(5), ended(4), ended(3)]))).toEqual([5, 4, 3, 2]);
  expect(merged([ended(1)], [ended(1, { outcome: 'left' })])[0]!.outcome).toBe('left');
});

test('what is older than a newest page stays where they meet', () => {
  const known = [ended(4), ended(3), ended(2), ended(1)];
  expect(numbers(renewed(known, [ended(5), ended(4), ended(3)]))).toEqual([5, 4, 3, 2, 1]);
});

test('a page that does not reach down to what is known replaces it', () => {
  expect(numbers(renewed([ended(2), ended(1)], [ended(9), ended(8)]))).toEqual([9, 8]);
});

test('what the service has forgotten goes', () => {
  expect(renewed([ended(2), ended(1)], [])).toEqual([]);
  expect(numbers(renewed([ended(9), ended(2)], [ended(2)]))).toEqual([2]);
});

test('a service that counts from 1 again is no continuation', () => {
  const known = [ended(2), ended(1)];
  const page = [ended(2, { started: 9002 }), ended(1, { started: 9001 })];
  expect(renewed(known, page)).toEqual(page);
});

test('only as many captures as are kept are shown, the newest', () => {
  const rows = [ended(4, { captured: true }), ended(3), ended(2, { captured: true }), ended(1, { captured: true })];
  expect(withCaptures(rows, 2).map(({ captured }) => captured)).toEqual([true, false, true, false]);
});
