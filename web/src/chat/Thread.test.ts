import 'fake-indexeddb/auto';

import { render, screen } from '@testing-library/svelte';
import { tick } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { conversations } from './conversations.svelte';
import { newId } from './ids';
import Thread from './Thread.svelte';
import { conversation, turn } from './turn.fixture';
import { undo } from './undo.svelte';
import { addWholes } from './wholes';

class NoObserver {
  observe(): void {}
  disconnect(): void {}
}

beforeEach(() => {
  vi.stubGlobal('ResizeObserver', NoObserver);
  vi.stubGlobal('IntersectionObserver', NoObserver);
});

afterEach(() => {
  undo.dismiss();
  vi.unstubAllGlobals();
});

/** A question with two answers, of which the second is shown. */
async function show(): Promise<{ id: string; left: () => number }> {
  const id = newId();
  const whole = conversation(id);
  const other = turn(`${id}-b`, `${id}-q`, { role: 'assistant', at: 3, text: 'Sheep.' });
  await conversations.start();
  await addWholes(conversations, [{ ...whole, messages: { ...whole.messages, [other.id]: other }, leaf: other.id }]);
  await conversations.open(id);
  const onleft = vi.fn();
  const head = conversations.find(id)!;
  render(Thread, { props: { head, messages: conversations.messages(id)!, target: null, editing: null, onleft } });
  return { id, left: () => onleft.mock.calls.length };
}

async function press(name: string): Promise<void> {
  const button = screen.getByRole('button', { name });
  button.focus();
  button.click();
  await tick();
  await tick();
}

const focused = (): string | null | undefined => (document.activeElement as HTMLElement | null)?.dataset.turn;

describe('the focus', () => {
  it('stays on the way through versions, and turns back at the last of them', async () => {
    await show();
    await press('Previous version');
    expect(document.activeElement).toBe(screen.getByRole('button', { name: 'Next version' }));
    await press('Next version');
    expect(document.activeElement).toBe(screen.getByRole('button', { name: 'Previous version' }));
  });

  it('goes to what is shown in the place of a turn that is deleted', async () => {
    const { id, left } = await show();
    await press('Delete the answer');
    expect(focused()).toBe(`${id}-a`);
    await press('Delete the answer');
    expect(focused()).toBe(`${id}-q`);
    await press('Delete');
    expect(left()).toBe(1);
  });

  it('goes to the answer that is asked for anew', async () => {
    vi.stubGlobal('fetch', () => new Promise(() => undefined));
    const { id } = await show();
    await press('Regenerate');
    expect(focused()).toBe(conversations.find(id)!.leaf);
    expect(focused()).not.toBe(`${id}-b`);
  });

  it('is in the text that is edited, and left to the page when that is given up', async () => {
    const { left } = await show();
    await press('Edit the answer');
    expect(document.activeElement).toBe(screen.getByRole('textbox', { name: 'Edit the answer' }));
    await press('Cancel');
    expect(left()).toBe(1);
  });
});
