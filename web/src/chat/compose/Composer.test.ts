import { fireEvent, render } from '@testing-library/svelte';
import { expect, it, vi } from 'vitest';

import Composer from './Composer.svelte';

function shown(more: { busy?: boolean; takesImages?: boolean } = {}) {
  const onsend = vi.fn();
  const onstop = vi.fn();
  const props = { text: 'Hello', images: [], busy: false, takesImages: false, onsend, onstop, ...more };
  const { container, rerender, unmount } = render(Composer, props);
  const area = container.querySelector('textarea')!;
  const button = container.querySelector<HTMLButtonElement>('button.primary')!;
  return { container, rerender, unmount, area, button, onsend, onstop };
}

/** What a browser tells of something dragged over the page. */
function dragged(type: string, files: File[]): Event {
  const event = new Event(type, { bubbles: true, cancelable: true });
  return Object.assign(event, { dataTransfer: { types: ['Files'], files } });
}

it('sends and stops with one button, which keeps the focus', async () => {
  const { container, rerender, button, onsend, onstop } = shown();
  button.focus();
  await fireEvent.click(button);
  expect(onsend).toHaveBeenCalledOnce();
  await rerender({ busy: true, text: '' });
  expect(container.querySelector('button.primary')).toBe(button);
  expect(document.activeElement).toBe(button);
  expect(button.getAttribute('aria-label')).toBe('Stop the answer');
  await fireEvent.click(button, { detail: 2 });
  expect(onstop).not.toHaveBeenCalled();
  await fireEvent.click(button);
  expect(onstop).toHaveBeenCalledOnce();
  await rerender({ busy: false });
  expect(document.activeElement).toBe(button);
  await fireEvent.click(button);
  expect(onsend).toHaveBeenCalledOnce(); // there is nothing to send
});

it.each([
  ['Enter', {}, true],
  ['Shift + Enter', { shiftKey: true }, false],
  ['Enter of an input method', { isComposing: true }, false],
  ['Enter of an input method, as Safari tells it', { keyCode: 229 }, false],
])('%s', async (_, more, sends) => {
  const { area, onsend } = shown();
  await fireEvent.keyDown(area, { key: 'Enter', ...more });
  expect(onsend).toHaveBeenCalledTimes(sends ? 1 : 0);
});

it('shows where files may be dropped, and tells what it does not take', async () => {
  const { container } = shown();
  await fireEvent(document.body, dragged('dragover', []));
  expect(container.querySelector('.target')?.textContent).toContain('takes no images');
  await fireEvent(document.body, dragged('drop', [new File(['x'], 'x.png', { type: 'image/png' })]));
  expect(container.querySelector('.target')).toBeNull();
  await vi.waitFor(() => expect(container.querySelector('[role=alert]')?.textContent).toContain('takes text only'));
});

it('is content when it is gone before the files were read', async () => {
  const { unmount } = shown();
  let give = (_: ArrayBuffer): void => {};
  const file = new File(['a'], 'a.txt');
  file.arrayBuffer = () => new Promise((resolve) => (give = resolve));
  await fireEvent(document.body, dragged('drop', [file]));
  unmount();
  give(new ArrayBuffer(1));
  await new Promise((resolve) => setTimeout(resolve));
});
