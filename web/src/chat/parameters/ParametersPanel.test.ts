import { fireEvent, render } from '@testing-library/svelte';
import { expect, it, vi } from 'vitest';

import ParametersPanel from './ParametersPanel.svelte';

it('tells what may not be typed, and forgets it with all the rest when it is reset', async () => {
  const { getByRole, queryByText } = render(ParametersPanel, { parameters: { top_k: 7 }, system: '' });
  const field = (name: string) => getByRole('textbox', { name }) as HTMLInputElement;
  await fireEvent.input(field('Temperature'), { target: { value: '-3' } });
  expect(field('Temperature').getAttribute('aria-invalid')).toBe('true');
  expect(queryByText('It must be at least 0.')).not.toBeNull();
  const reset = getByRole('button', { name: 'Reset all' });
  reset.focus();
  await fireEvent.click(reset);
  expect([field('Temperature').value, field('Top K').value]).toEqual(['', '']);
  expect(queryByText('It must be at least 0.')).toBeNull();
  expect(document.activeElement).toBe(reset);
});

it('goes to the field that somebody was sent to, each time', async () => {
  const { getByRole, rerender } = render(ParametersPanel, {
    props: { parameters: {}, system: '', target: { field: 'ctx' } },
  });
  const field = getByRole('textbox', { name: 'Conversation budget' });
  await vi.waitFor(() => expect(document.activeElement).toBe(field));
  field.blur();
  await rerender({ target: { field: 'ctx' } });
  await vi.waitFor(() => expect(document.activeElement).toBe(field));
});

it('warns of a temperature that few models bear, and takes it', async () => {
  const { getByRole, queryByText } = render(ParametersPanel, { parameters: { temperature: 2 }, system: '' });
  expect(queryByText(/nonsense/)).toBeNull();
  const field = getByRole('textbox', { name: 'Temperature' });
  await fireEvent.input(field, { target: { value: '2.5' } });
  expect(queryByText(/nonsense/)).not.toBeNull();
  expect(field.getAttribute('aria-invalid')).toBe('false');
});
