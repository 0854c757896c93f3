import { fireEvent, render } from '@testing-library/svelte';
import { beforeEach, expect, it, vi } from 'vitest';

import { servedModel } from '../../testing/served';
import { keptChoice } from './choice';
import ModelList from './ModelList.svelte';

const MODELS = [servedModel('one'), servedModel('two'), servedModel('broken', { unavailable: 'cut off' })];

beforeEach(() => localStorage.clear());

it('is used with the keyboard alone, and remembers nothing by itself', async () => {
  const onchoose = vi.fn();
  const { container } = render(ModelList, { models: MODELS, chosen: 'one', onchoose });
  const field = container.querySelector<HTMLInputElement>('[role=combobox]')!;
  const active = () => document.getElementById(field.getAttribute('aria-activedescendant') ?? '')?.textContent;
  expect(active()).toContain('one');
  await fireEvent.keyDown(field, { key: 'ArrowDown' });
  expect(active()).toContain('two');
  await fireEvent.keyDown(field, { key: 'Enter', isComposing: true });
  expect(onchoose).not.toHaveBeenCalled();
  await fireEvent.keyDown(field, { key: 'Enter' });
  expect(onchoose).toHaveBeenCalledExactlyOnceWith(MODELS[1]);
  await fireEvent.keyDown(field, { key: 'PageDown' });
  await fireEvent.keyDown(field, { key: 'Enter' });
  expect(active()).toContain('broken');
  expect(onchoose).toHaveBeenCalledOnce();
  await fireEvent.input(field, { target: { value: 'nothing' } });
  expect(field.hasAttribute('aria-activedescendant')).toBe(false);
  expect(container.textContent).toContain('No model is named so.');
  expect(keptChoice()).toBeNull();
});
