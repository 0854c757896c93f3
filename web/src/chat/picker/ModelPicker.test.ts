import { fireEvent, render } from '@testing-library/svelte';
import { beforeEach, expect, it, vi } from 'vitest';

import { keptChoice } from './choice';
import ModelPicker from './ModelPicker.svelte';

vi.mock('../../state/served.svelte', () => {
  const chat = ['one', 'two'].map((id) => ({
    id,
    state: 'stopped',
    aliases: [],
    personalities: ['pirate'],
    context_length: null,
    input_modalities: ['text'],
  }));
  const find = (name: string) => chat.find(({ id }) => id === name);
  return { served: { chat, find, loaded: true, default: 'one', error: null } };
});

beforeEach(() => localStorage.clear());

it.each([
  [true, { model: 'two', personality: 'pirate' }],
  [false, null],
])('keeps what new chats begin with, or not: %s', async (remember, kept) => {
  const { container } = render(ModelPicker, { model: 'one', personality: null, remember });
  await fireEvent(container.querySelector('.popover')!, Object.assign(new Event('toggle'), { newState: 'open' }));
  const options = container.querySelectorAll('[role=option]');
  await fireEvent.click(options[1]!);
  expect(container.querySelector('.model')?.textContent).toContain('two');
  await fireEvent.change(container.querySelector('select')!, { target: { value: 'pirate' } });
  expect(keptChoice()).toEqual(kept);
});
