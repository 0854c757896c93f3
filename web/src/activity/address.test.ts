import { expect, test } from 'vitest';

import { chosenOf, detailsOf, isChosen } from './address';
import { ended } from './fixture';

const parts = (address: string) => address.slice(2).split('/');

test('the address of a request names it', () => {
  const request = ended(5, { started: 1700000000.75 });
  expect(detailsOf(request)).toBe('#/activity/5/1700000000');
  expect(isChosen(request, chosenOf(parts(detailsOf(request))))).toBe(true);
});

test('one of the same number after a restart is another', () => {
  const chosen = chosenOf(parts(detailsOf(ended(5, { started: 1700000000 }))));
  expect(isChosen(ended(5, { started: 1700000900 }), chosen)).toBe(false);
  expect(isChosen(ended(6, { started: 1700000000 }), chosen)).toBe(false);
});

test('a number alone names the one that has it now', () => {
  expect(isChosen(ended(5), chosenOf(['activity', '5']))).toBe(true);
});

test.each([[['activity']], [['activity', 'x']], [['activity', '-1']], [['activity', '1'.repeat(16)]]])(
  '%j names none',
  (address) => {
    expect(chosenOf(address)).toBeNull();
    expect(isChosen(ended(1), null)).toBe(false);
  },
);
