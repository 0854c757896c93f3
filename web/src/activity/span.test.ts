import { expect, test } from 'vitest';

import { ended } from './fixture';
import { isWithin, spanWords } from './span';

test('a request is within a time where it was there for a part of it', () => {
  const request = ended(1, { started: 100, seconds: 10 });
  const spans = [[90, 99] as const, [90, 100] as const, [103, 104] as const, [110, 120] as const, [111, 120] as const];
  expect(spans.map((span) => isWithin(request, span))).toEqual([false, true, true, true, false]);
});

test('a time is told with its seconds', () => {
  expect(spanWords([0, 65])).toMatch(/^\d+:\d\d:00 – \d+:\d\d:05$/);
});
