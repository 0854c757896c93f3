import { fireEvent, render, screen } from '@testing-library/svelte';
import { afterEach, expect, test, vi } from 'vitest';

import { ApiError } from '../api/client';
import { toasts } from '../state/toasts.svelte';
import CancelButton from './CancelButton.svelte';
import type { LiveRequest } from './live';
import { Running } from './running.svelte';

afterEach(() => vi.restoreAllMocks());

const request: LiveRequest = {
  ...{ id: 'a', model: 'smol', key: null, route: '/v1/chat/completions', stream: true, state: 'running' },
  ...{ started: 1, leased_at: 1, first_byte_at: 2, bytes: 0, tokens: 0, speed: null },
};

async function cancel(answer: Promise<number>): Promise<HTMLElement> {
  const running = new Running();
  vi.spyOn(running, 'cancel').mockReturnValue(answer);
  render(CancelButton, { request, running });
  const button = screen.getByRole('button');
  await fireEvent.click(button);
  expect(running.cancel).not.toHaveBeenCalled();
  await fireEvent.click(button);
  expect(running.cancel).toHaveBeenCalledExactlyOnceWith('a');
  return button;
}

test('it can’t be pressed while the request is being ended', async () => {
  const button = await cancel(new Promise(() => undefined));
  expect(button).toHaveProperty('disabled', true);
  expect(button.textContent.trim()).toBe('Ending …');
});

test('nor until its row goes', async () => {
  const button = await cancel(Promise.resolve(1));
  await Promise.resolve();
  expect(button).toHaveProperty('disabled', true);
});

test('why it failed is told, and it can be pressed again', async () => {
  const told = vi.spyOn(toasts, 'error').mockImplementation(() => undefined);
  const error = new ApiError('No scope admin.', 403);
  const button = await cancel(Promise.reject(error));
  await vi.waitFor(() => expect(button).toHaveProperty('disabled', false));
  expect(told).toHaveBeenCalledWith(error);
});
