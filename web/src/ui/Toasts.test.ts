import { render } from '@testing-library/svelte';
import { tick } from 'svelte';
import { afterEach, beforeEach, expect, it } from 'vitest';

import { toasts } from '../state/toasts.svelte';
import Toasts from './Toasts.svelte';

beforeEach(() => {
  // jsdom has no popovers.
  HTMLElement.prototype.showPopover ??= () => {};
  HTMLElement.prototype.hidePopover ??= () => {};
});

afterEach(() => toasts.list.forEach(({ id }) => toasts.dismiss(id)));

it('shows the two newest, and those before them when they are gone', async () => {
  const { container } = render(Toasts);
  const shown = () => [...container.querySelectorAll('.toast')].map((toast) => toast.textContent?.trim());
  for (const text of ['one', 'two', 'three']) toasts.info(text);
  await tick();
  expect(shown()).toEqual(['two', 'three']);
  toasts.dismiss(toasts.list.at(-1)!.id);
  await tick();
  expect(shown()).toEqual(['one', 'two']);
});
