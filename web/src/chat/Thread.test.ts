import 'fake-indexeddb/auto';

import { fireEvent, render, screen } from '@testing-library/svelte';
import { tick } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { answers } from './answers.svelte';
import { conversations } from './conversations.svelte';
import { drafts } from './drafts.svelte';
import { newId } from './ids';
import { newStats } from './stats';
import Thread from './Thread.svelte';
import { Tabs } from './tabs';
import { conversation, turn } from './turn.fixture';
import type { Message } from './types';
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
  answers.stopAll();
  vi.unstubAllGlobals();
});

const numbers = newStats('');

/** A question with two answers, of which the second is shown. */
async function show(answer: Partial<Message> = {}): Promise<{ id: string; left: () => number; again: () => void }> {
  const id = newId();
  const whole = conversation(id);
  const other = turn(`${id}-b`, `${id}-q`, { role: 'assistant', at: 3, text: 'Sheep.', ...answer });
  await conversations.start();
  await addWholes(conversations, [{ ...whole, messages: { ...whole.messages, [other.id]: other }, leaf: other.id }]);
  await conversations.open(id);
  const onleft = vi.fn();
  const head = conversations.find(id)!;
  const props = { head, messages: conversations.messages(id)!, target: null, draft: drafts.of(id), onleft };
  const page = render(Thread, { props });
  const again = (): void => {
    page.unmount();
    render(Thread, { props });
  };
  return { id, left: () => onleft.mock.calls.length, again };
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

it('is where its reader was', async () => {
  const { again } = await show();
  const scroller = screen.getByRole('region', { name: 'Conversation' });
  Object.defineProperty(scroller, 'scrollHeight', { value: 1000 });
  for (const top of [900, 300]) {
    scroller.scrollTop = top;
    await fireEvent.scroll(scroller);
  }
  again();
  await tick();
  await tick();
  expect(screen.getByRole('region', { name: 'Conversation' }).scrollTop).toBe(300);
});

describe('an editor', () => {
  const field = (): HTMLTextAreaElement => screen.getByRole('textbox');

  async function type(text: string): Promise<void> {
    await fireEvent.input(field(), { target: { value: text } });
  }

  it('keeps what is typed while an answer is on its way, says why, and saves it after that', async () => {
    const { id } = await show();
    const other = new Tabs();
    await press('Edit');
    await type('In other words');
    other.tell('answering', { tab: 'other', turns: [{ conversation: id, message: 'theirs' }] });
    await screen.findByText('An answer is on its way. What you type stays.');
    expect(screen.getByRole('button', { name: 'Send' }).getAttribute('aria-disabled')).toBe('true');
    await press('Send');
    expect(field().value).toBe('In other words');
    other.tell('answering', { tab: 'other', turns: [] });
    await vi.waitFor(() => expect(answers.isBusy(id)).toBe(false));
    vi.stubGlobal('fetch', () => new Promise(() => undefined));
    await press('Send');
    expect(screen.queryByRole('textbox')).toBeNull();
    expect(screen.getByText('In other words')).toBeTruthy();
    other.close();
  });

  it('is there again after another page was shown, with what was typed', async () => {
    const { again } = await show();
    await press('Edit the answer');
    await type('Goats.');
    again();
    expect(field().value).toBe('Goats.');
    expect(document.activeElement).toBe(field());
  });

  it('drops what was changed with the second Escape only', async () => {
    await show();
    await press('Edit the answer');
    await type('Goats.');
    await fireEvent.keyDown(field(), { key: 'Escape' });
    expect(field().value).toBe('Goats.');
    expect(screen.getByText('Escape once more drops what you have changed.')).toBeTruthy();
    await type('Many goats.');
    await fireEvent.keyDown(field(), { key: 'Escape' });
    await fireEvent.keyDown(field(), { key: 'Escape' });
    expect(screen.queryByRole('textbox')).toBeNull();
    await press('Edit the answer');
    expect(field().value).toBe('Sheep.');
  });
});

it('says whose an answer in other words is, and lets the model go on with it', async () => {
  const bodies: string[] = [];
  await show({ stats: { ...numbers, model: 'smol', finishReason: 'stop' } });
  await press('Edit the answer');
  await fireEvent.input(screen.getByRole('textbox'), { target: { value: 'Goats and' } });
  await press('Save');
  expect(screen.getByRole('article', { name: 'Answer of smol (edited)' })).toBeTruthy();
  vi.stubGlobal('fetch', (_: string, { body }: RequestInit) => {
    bodies.push(body as string);
    return new Promise(() => undefined);
  });
  await press('Go on with the answer');
  expect(JSON.parse(bodies[0]!)).toMatchObject({
    model: 'smol',
    messages: [{ role: 'user' }, { role: 'assistant', content: 'Goats and' }],
  });
});
