import { fireEvent, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Capture } from './capture.svelte';
import CaptureSwitch from './CaptureSwitch.svelte';
import { serve, tellers } from './doubles';

const PATH = '/admin/capture';

let stop: () => void;

beforeEach(() => {
  tellers();
});

afterEach(() => {
  stop();
  vi.restoreAllMocks();
});

async function start(enabled: boolean, captures: number) {
  const service = serve({ [PATH]: { enabled, captures, keep: 50, size: 1024 } });
  const capture = new Capture();
  stop = capture.follow();
  render(CaptureSwitch, { capture });
  await fireEvent.click(await screen.findByRole('switch', { name: 'Capture requests and answers' }));
  return service;
}

test('what it keeps is said before it begins', async () => {
  const { asked } = await start(false, 0);
  expect(asked).not.toContain(`PUT ${PATH}`);
  expect(screen.getByText(/prompts and answers included/)).not.toBeNull();
  await fireEvent.click(screen.getByText('Capture', { selector: 'button' }));
  expect(asked).toContain(`PUT ${PATH}`);
});

test('what was captured is forgotten only after a question', async () => {
  const { asked } = await start(true, 3);
  expect(asked).not.toContain(`PUT ${PATH}`);
  await fireEvent.click(screen.getByText('Stop and forget'));
  expect(asked).toContain(`PUT ${PATH}`);
});

test('where nothing was captured it ends at once', async () => {
  const { asked } = await start(true, 0);
  expect(asked).toContain(`PUT ${PATH}`);
});
