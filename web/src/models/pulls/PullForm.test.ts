import { fireEvent, render, screen, waitFor } from '@testing-library/svelte';
import { expect, test, vi } from 'vitest';

import { ApiError } from '../../api/client';
import type { PullRequest } from '../../api/types';
import PullForm from './PullForm.svelte';

function form(request: PullRequest, onbegin: (request: PullRequest) => Promise<void>) {
  const onclose = vi.fn();
  render(PullForm, { request, onbegin, onclose });
  return { onclose, fetchIt: () => fireEvent.click(screen.getByRole('button', { name: 'Fetch it' })) };
}

test('only what was said is asked for', async () => {
  const onbegin = vi.fn(() => Promise.resolve());
  const { onclose, fetchIt } = form({ source: '' }, onbegin);
  await fireEvent.input(screen.getByLabelText(/Hub name/), { target: { value: ' org/repo ' } });
  await fetchIt();
  expect(onbegin).toHaveBeenCalledWith({ source: 'org/repo' });
  await waitFor(() => expect(onclose).toHaveBeenCalled());
});

test('all that is said is asked for', async () => {
  const onbegin = vi.fn(() => Promise.resolve());
  const { fetchIt } = form({ source: 'org/repo', quant: 'Q8_0', revision: 'v2' }, onbegin);
  await fireEvent.input(screen.getByLabelText(/Name/, { selector: '.more input' }), { target: { value: 'mine' } });
  await fireEvent.click(screen.getByRole('checkbox'));
  await fetchIt();
  const asked = { source: 'org/repo', quant: 'Q8_0', revision: 'v2', name: 'mine', mmproj: false };
  expect(onbegin).toHaveBeenCalledWith(asked);
});

test('a mistake stands at its field, and what was said stays', async () => {
  const refused = new ApiError("'name' may not have spaces.", 400, 'invalid_request', 'name');
  const { onclose, fetchIt } = form({ source: 'org/repo', name: 'a b' }, () => Promise.reject(refused));
  await fetchIt();
  expect((await screen.findByRole('alert')).id).toBe('pull-name-wrong');
  const field = screen.getByDisplayValue('a b');
  expect([field.getAttribute('aria-invalid'), field.getAttribute('aria-describedby')]).toEqual([
    'true',
    'pull-name-wrong',
  ]);
  expect(onclose).not.toHaveBeenCalled();
  expect(document.activeElement).toBe(field);
});

test('Escape closes the form', async () => {
  const { onclose } = form({ source: '' }, () => Promise.resolve());
  await fireEvent.keyDown(screen.getByLabelText(/Hub name/), { key: 'Escape' });
  expect(onclose).toHaveBeenCalledOnce();
});

test('what is about no field stands by itself', async () => {
  const { fetchIt } = form({ source: 'org/repo' }, () => Promise.reject(new ApiError('64 pulls wait.', 429)));
  await fetchIt();
  expect((await screen.findByRole('alert')).textContent).toBe('64 pulls wait.');
});
