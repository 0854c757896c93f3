import { afterEach, expect, test, vi } from 'vitest';

import { Wrapping } from './wrapping.svelte';

afterEach(() => {
  vi.restoreAllMocks();
  localStorage.clear();
});

function screen(narrow: boolean): void {
  vi.spyOn(window, 'matchMedia').mockReturnValue({ matches: narrow } as MediaQueryList);
}

test.each([true, false])('where nobody chose, a narrow screen breaks lines (%s)', (narrow) => {
  screen(narrow);
  expect(new Wrapping().on).toBe(narrow);
  expect(localStorage.length).toBe(0);
});

test.each([true, false])('what was chosen is remembered (%s)', (chosen) => {
  screen(!chosen);
  const wrapping = new Wrapping();
  wrapping.on = chosen;
  expect([wrapping.on, new Wrapping().on]).toEqual([chosen, chosen]);
});
