import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { session } from '../state/session.svelte';
import { Drafts } from './drafts.svelte';
import { keptDrafts } from './kept-drafts';
import { turn } from './turn.fixture';

const DAY = 24 * 3600 * 1000; // milliseconds

beforeEach(() => as('one'));

afterEach(() => {
  vi.useRealTimers();
  session.signOut();
});

function as(id: string): void {
  const limits = { name: id, models: null, requests_per_minute: null, tokens_per_day: null, at_once: null };
  session.caller = { keys_required: true, scopes: ['inference'], key: { id, ...limits, expires: null }, version: '1' };
}

it('outlive the tab, and so do the editors in which something was changed', () => {
  const drafts = new Drafts();
  const draft = drafts.of('c');
  draft.text = 'Half a question';
  draft.edit(turn('q', null, { text: 'Before' }));
  draft.edit(turn('r', null));
  draft.edits.get('q')!.text = 'After';
  drafts.keep();
  const again = new Drafts().of('c');
  expect(again.text).toBe('Half a question');
  expect([...again.edits.keys()]).toEqual(['q']);
  expect(again.edits.get('q')).toMatchObject({ original: 'Before', text: 'After', changed: true });
});

it('are kept when the page is hidden', () => {
  new Drafts().of('c').text = 'Half a question';
  dispatchEvent(new Event('pagehide'));
  expect(keptDrafts()).toMatchObject([{ conversation: 'c', text: 'Half a question' }]);
});

it('are those of one key', () => {
  const drafts = new Drafts();
  drafts.of('new').text = 'Mine';
  drafts.keep();
  as('two');
  expect(new Drafts().of('new').text).toBe('');
});

it('go on with whoever signs in after the key was refused, over nothing that was kept for them', () => {
  as('two');
  const before = new Drafts();
  before.of('new').text = 'Kept for two';
  before.keep();
  as('one');
  const drafts = new Drafts();
  drafts.of('new');
  drafts.of('c').text = 'Goes on';
  drafts.keep();
  as('two');
  drafts.keep();
  expect(new Drafts().of('c').text).toBe('Goes on');
  expect(new Drafts().of('new').text).toBe('Kept for two');
  as('one');
  expect(new Drafts().of('c').text).toBe('');
});

it('of another tab change nothing here, and only what was typed here is written', () => {
  const [here, there] = [new Drafts(), new Drafts()];
  here.of('c').text = 'Here';
  here.of('new');
  there.of('c').text = 'There';
  there.of('new').text = 'Also there';
  there.keep();
  expect(here.of('c').text).toBe('Here');
  here.keep();
  expect(new Drafts().of('c').text).toBe('Here');
  expect(new Drafts().of('new').text).toBe('Also there');
});

it('are gone once they are sent', () => {
  const drafts = new Drafts();
  drafts.of('c').text = 'Soon sent';
  drafts.keep();
  drafts.of('c').clear();
  drafts.keep();
  expect(keptDrafts()).toEqual([]);
});

it('are not kept of a chat that is deleted', () => {
  const drafts = new Drafts();
  drafts.of('c').text = 'Half a question';
  drafts.of('d').text = 'Of another chat';
  drafts.keep();
  drafts.forget('c');
  drafts.keep();
  expect(keptDrafts().map(({ conversation }) => conversation)).toEqual(['d']);
  expect(drafts.of('c').text).toBe('Half a question');
});

it('are forgotten after a month, and beyond the newest fifty', () => {
  vi.useFakeTimers({ now: 0 });
  const drafts = new Drafts();
  for (let at = 0; at < 52; at += 1) {
    drafts.of(`c${at}`).text = 'Kept';
    drafts.keep();
    vi.advanceTimersByTime(DAY / 2);
  }
  expect(keptDrafts()).toHaveLength(50);
  expect(keptDrafts()[0]!.conversation).toBe('c51');
  vi.setSystemTime(45.6 * DAY);
  expect(keptDrafts().at(-1)!.conversation).toBe('c32');
});

it('end with a sign-out, also where no chat was shown', () => {
  const drafts = new Drafts();
  drafts.of('c').text = 'Mine';
  drafts.keep();
  session.signOut();
  expect(keptDrafts()).toEqual([]);
});

it('are none where something else is kept', () => {
  localStorage.setItem('llamaherd.of-key.drafts', '{"owner": 1}');
  expect(keptDrafts()).toEqual([]);
  localStorage.setItem('llamaherd.of-key.drafts', '[null, 3, {}]');
  expect(keptDrafts()).toEqual([]);
});
