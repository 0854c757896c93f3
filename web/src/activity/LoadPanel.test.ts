import { fireEvent, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { History } from './history.svelte';
import LoadPanel from './LoadPanel.svelte';
import { Samples } from './samples.svelte';

beforeEach(() => localStorage.clear());
afterEach(() => vi.unstubAllGlobals());

const show = () => render(LoadPanel, { samples: new Samples(), history: new History() });
const charts = () => screen.getByRole('button', { name: 'Charts' });
const isOpen = () => charts().getAttribute('aria-expanded');
const drawn = () => screen.queryByText('Loading the charts');

test('the charts are hidden by a press, also when the page is opened again', async () => {
  const { unmount } = show();
  expect(drawn()).not.toBeNull();
  await fireEvent.click(charts());
  expect(isOpen()).toBe('false');
  expect(drawn()).toBeNull();
  unmount();
  show();
  expect(isOpen()).toBe('false');
  await fireEvent.click(charts());
  expect(drawn()).not.toBeNull();
});

test('where nothing may be kept they are still shown and hidden', async () => {
  vi.stubGlobal('localStorage', undefined);
  show();
  await fireEvent.click(charts());
  expect(isOpen()).toBe('false');
});
