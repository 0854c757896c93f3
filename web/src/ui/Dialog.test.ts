import { render } from '@testing-library/svelte';
import { createRawSnippet, tick } from 'svelte';
import { expect, it, vi } from 'vitest';

import { toasts } from '../state/toasts.svelte';
import Dialog from './Dialog.svelte';
import Toasts from './Toasts.svelte';

const children = createRawSnippet(() => ({ render: () => '<p>words</p>' }));

/** Whether it closes when a pointer is pressed and released there. */
function closes(pressed: 'within' | 'beside', released: 'within' | 'beside', moved = 0): boolean {
  const onclose = vi.fn();
  const { container, unmount } = render(Dialog, { title: 'Title', onclose, children });
  const dialog = container.querySelector('dialog')!;
  const words = container.querySelector('p')!;
  const event = (type: string, x: number) => new MouseEvent(type, { bubbles: true, clientX: x, clientY: 5 });
  (pressed === 'within' ? words : dialog).dispatchEvent(event('pointerdown', 5));
  // A browser tells of a click on what both are in.
  (pressed === released && released === 'within' ? words : dialog).dispatchEvent(event('click', 5 + moved));
  unmount();
  return onclose.mock.calls.length > 0;
}

it('closes by a click beside it, and not by a selection or a drag that ends or begins there', () => {
  expect(closes('beside', 'beside')).toBe(true);
  expect(closes('within', 'within')).toBe(false);
  expect(closes('within', 'beside', 300)).toBe(false);
  expect(closes('beside', 'within', 300)).toBe(false);
  expect(closes('beside', 'beside', 300)).toBe(false);
});

it('shows toasts within, where they can be reached, and the page again behind it', async () => {
  const page = render(Toasts);
  const dialog = render(Dialog, { title: 'Title', onclose: () => {}, children });
  toasts.info('It is done.');
  await tick();
  expect(dialog.container.querySelector('dialog .toast')?.textContent).toContain('It is done.');
  expect(page.container.querySelector('.toast')).toBeNull();
  dialog.unmount();
  await tick();
  expect(page.container.querySelector('.toast')?.textContent).toContain('It is done.');
});
