import { fireEvent, render } from '@testing-library/svelte';
import { expect, it } from 'vitest';

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
