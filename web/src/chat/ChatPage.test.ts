import 'fake-indexeddb/auto';

import { render, screen } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { route } from '../state/route.svelte';
import { session } from '../state/session.svelte';
import ChatPage from './ChatPage.svelte';
import { conversations } from './conversations.svelte';
import { drafts } from './drafts.svelte';
import { newId } from './ids';
import { lastChat } from './last-chat.svelte';
import { conversation } from './turn.fixture';
import { addWholes } from './wholes';

class NoObserver {
  observe(): void {}
  disconnect(): void {}
}

beforeEach(async () => {
  vi.stubGlobal('ResizeObserver', NoObserver);
  vi.stubGlobal('IntersectionObserver', NoObserver);
  vi.stubGlobal('fetch', () => new Promise(() => undefined));
  as('one');
  await conversations.start();
});

afterEach(() => {
  session.signOut();
  vi.unstubAllGlobals();
});

function as(id: string): void {
  const limits = { name: id, models: null, requests_per_minute: null, tokens_per_day: null, at_once: null };
  session.caller = { keys_required: true, scopes: ['inference'], key: { id, ...limits, expires: null }, version: '1' };
  session.phase = 'ready';
}

/** A chat of the present key, on the page. */
async function open(): Promise<string> {
  const id = newId();
  await addWholes(conversations, [conversation(id)]);
  route.parts = ['chat', id];
  render(ChatPage);
  await screen.findByText('What is a herd?');
  return id;
}

it('goes on under the key that replaces one that was refused, with the same chat and all that was typed', async () => {
  const id = await open();
  drafts.of(id).text = 'Half a question';
  drafts.of(id).edit(conversations.messages(id)![`${id}-q`]!);
  drafts.of(id).edits.get(`${id}-q`)!.text = 'In other words';
  session.phase = 'signed-out';
  flushSync();
  as('two');
  (await screen.findByRole('button', { name: 'List it' })).click();
  const message = await screen.findByRole<HTMLTextAreaElement>('textbox', { name: 'Message' });
  expect(message.value).toBe('Half a question');
  expect(screen.getByRole<HTMLTextAreaElement>('textbox', { name: 'Edit your message' }).value).toBe('In other words');
});

it('offers no list for a chat that is nowhere', async () => {
  route.parts = ['chat', 'gone'];
  render(ChatPage);
  await screen.findByText('It was deleted, or made in another browser.');
  expect(screen.queryByRole('button', { name: 'List it' })).toBeNull();
});

it('leaves the way back to its chat, until somebody signs out', async () => {
  const id = await open();
  route.parts = ['settings'];
  flushSync();
  expect(lastChat.href).toBe(`#/chat/${id}`);
  session.signOut();
  flushSync();
  expect(lastChat.href).toBe('#/chat');
});

it('leaves the way back to a new chat where that was shown', async () => {
  await open();
  route.parts = ['chat'];
  flushSync();
  expect(lastChat.href).toBe('#/chat');
});
