import { expect, test } from 'vitest';

import { Speed } from './speed';

test('there is no speed before two looks', () => {
  const speed = new Speed();
  expect(speed.value).toBeNull();
  speed.note(1000, 5);
  expect(speed.value).toBeNull();
});

test('it is that of the last seconds', () => {
  const speed = new Speed(3000);
  for (const [at, tokens] of [
    [0, 0],
    [1000, 100],
    [2000, 200],
    [3000, 210],
    [4000, 220],
    [5000, 230],
  ] as const) {
    speed.note(at, tokens);
  }
  expect(speed.value).toBe(10);
});

test('it never falls below nothing', () => {
  const speed = new Speed();
  speed.note(0, 10);
  speed.note(1000, 5);
  expect(speed.value).toBe(0);
});
