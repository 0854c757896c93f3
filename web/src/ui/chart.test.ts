import { expect, test } from 'vitest';

import { summaryOf } from './chart';

const line = (values: (number | null)[]) => ({ name: 'Running', color: '--series-1', values });

test('a chart is told in a sentence a series', () => {
  expect(summaryOf([line([1, null, 5, 3])], String)).toBe('Running: 3 last, between 1 and 5.');
  expect(summaryOf([line([2, 2]), line([null])], String)).toBe('Running: 2 all the time. Running: nothing known.');
});
