import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { ApiError, Unreachable, type Client } from '../../api/client';
import type { Mistake, ModelsFile } from '../../api/types';
import { Draft } from './draft.svelte';

function file(text: string, version: string): ModelsFile {
  return { path: '/data/models.json', text, version, writable: true };
}

const mistake: Mistake = { message: 'unknown key', line: 1, column: 2, path: 'a' };

/** A service with one file. */
class Service {
  file = file('{"a": {}}', 'v1');
  mistakes: Mistake[] = [];
  checks: { text: string; answer: (mistakes: Mistake[]) => void }[] | null = null;
  asked: string[] = [];

  /** Where it is set, what is read is held back until it is called. */
  reads: (() => void)[] | null = null;
  /** What the next saving is refused with; `written`: the text is in the file all the same. */
  refuses: { error: Error; written: boolean } | null = null;

  async get(): Promise<ModelsFile> {
    const file = this.file;
    if (this.reads) await new Promise<void>((resolve) => this.reads!.push(resolve));
    return file;
  }

  post(_: string, { text }: { text: string }, signal: AbortSignal): Promise<{ mistakes: Mistake[] }> {
    this.asked.push(text);
    if (!this.checks) return Promise.resolve({ mistakes: this.mistakes });
    return new Promise((resolve, reject) => {
      this.checks!.push({ text, answer: (mistakes) => resolve({ mistakes }) });
      signal.addEventListener('abort', () => reject(new DOMException('', 'AbortError')));
    });
  }

  async put(_: string, { text, version }: { text: string; version: string }): Promise<ModelsFile> {
    if (this.refuses?.written) this.file = file(text, `${version}+`);
    if (this.refuses) throw this.refuses.error;
    if (version !== this.file.version) throw new ApiError('It has changed.', 409, 'models_file_changed');
    if (this.mistakes.length) {
      throw new ApiError('It is wrong.', 400, 'models_file_invalid', null, null, { mistakes: this.mistakes });
    }
    this.file = file(text, `${version}+`);
    return this.file;
  }
}

let service: Service;
let draft: Draft;

beforeEach(async () => {
  vi.useFakeTimers();
  service = new Service();
  draft = new Draft(() => service as unknown as Client);
  await draft.load();
});

afterEach(() => {
  draft.rest();
  vi.useRealTimers();
});

test('what was read is not dirty, what is edited is, and is not when it is the same again', () => {
  expect(draft.dirty).toBe(false);
  draft.edit('{}');
  expect(draft.dirty).toBe(true);
  draft.edit('{"a": {}}');
  expect(draft.dirty).toBe(false);
});

test('only what somebody stopped typing is checked', async () => {
  service.asked = [];
  draft.edit('{');
  await vi.advanceTimersByTimeAsync(100);
  draft.edit('{}');
  await vi.advanceTimersByTimeAsync(1000);
  expect(service.asked).toEqual(['{}']);
});

test('an answer about an older text is dropped', async () => {
  service.checks = [];
  draft.edit('{');
  await vi.advanceTimersByTimeAsync(1000);
  draft.edit('{}');
  service.checks[0]!.answer([mistake]);
  await vi.advanceTimersByTimeAsync(1000);
  expect(draft.mistakes).toEqual([]);
  service.checks[1]!.answer([]);
  await vi.advanceTimersByTimeAsync(0);
  expect(draft.checked).toBe(true);
  expect(draft.unchecked).toBeNull();
});

test('saving says what has changed', async () => {
  draft.edit('{"a": {}, "b": {}}');
  expect(await draft.save()).toBe(true);
  expect(draft.done).toBe('Saved. Added b.');
  expect(draft.dirty).toBe(false);
});

test('mistakes that saving finds are told, and the text stays', async () => {
  service.mistakes = [mistake];
  draft.edit('{"a": 1}');
  expect(await draft.save()).toBe(false);
  expect(draft.mistakes).toEqual([mistake]);
  expect(draft.text).toBe('{"a": 1}');
});

test('a file that somebody else has changed is not overwritten: theirs can be taken', async () => {
  service.file = file('{"theirs": {}}', 'v2');
  draft.edit('{"mine": {}}');
  expect(await draft.save()).toBe(false);
  expect(draft.theirs?.text).toBe('{"theirs": {}}');
  draft.takeTheirs();
  expect([draft.text, draft.dirty, draft.theirs]).toEqual(['{"theirs": {}}', false, null]);
});

test('… or replaced knowingly', async () => {
  service.file = file('{"theirs": {}}', 'v2');
  draft.edit('{"mine": {}}');
  await draft.save();
  draft.keepMine();
  expect(draft.text).toBe('{"mine": {}}');
  expect(await draft.save()).toBe(true);
  expect(service.file.text).toBe('{"mine": {}}');
});

test('… and who reverts has what the file is by then', async () => {
  draft.edit('{"mine": {}}');
  service.file = file('{"theirs": {}}', 'v2');
  await draft.load();
  draft.revert();
  expect([draft.text, draft.dirty, draft.theirs]).toEqual(['{"theirs": {}}', false, null]);
  draft.edit('{"theirs": {}, "mine": {}}');
  expect(await draft.save()).toBe(true);
});

test('a change from elsewhere is shown at once where nothing is edited', async () => {
  service.file = file('{"b": {}}', 'v2');
  await draft.load();
  expect([draft.text, draft.theirs]).toEqual(['{"b": {}}', null]);
});

test('… and does not take away what is being edited', async () => {
  draft.edit('{"mine": {}}');
  service.file = file('{"b": {}}', 'v2');
  await draft.load();
  expect([draft.text, draft.theirs?.text]).toEqual(['{"mine": {}}', '{"b": {}}']);
});

test('… which is no matter any more where they take theirs back', async () => {
  draft.edit('{"mine": {}}');
  const before = service.file;
  service.file = file('{"b": {}}', 'v2');
  await draft.load();
  service.file = before;
  await draft.load();
  expect([draft.text, draft.theirs]).toEqual(['{"mine": {}}', null]);
});

test('an answer from before the saving does not bring back what was there', async () => {
  draft.edit('{"mine": {}}');
  service.reads = [];
  const loading = draft.load();
  const saving = draft.save();
  await saving;
  service.reads[0]!();
  await loading;
  expect([draft.text, draft.dirty, draft.theirs]).toEqual(['{"mine": {}}', false, null]);
});

test('a file that was written and is not in use is saved, and it is told', async () => {
  draft.edit('{"mine": {}}');
  service.refuses = { error: new ApiError('keys.json is wrong.', 409, 'reload_refused'), written: true };
  expect(await draft.save()).toBe(false);
  expect([draft.dirty, draft.done]).toEqual([false, null]);
  expect(draft.unsaved).toMatch(/^The file is written, but .*: keys.json is wrong.$/);
});

test('a file that can not be written keeps the text here, and says why', async () => {
  draft.edit('{"mine": {}}');
  service.refuses = { error: new ApiError('The disk is full.', 409, 'models_file_not_written'), written: false };
  expect(await draft.save()).toBe(false);
  expect([draft.text, draft.dirty, draft.unsaved]).toEqual([
    '{"mine": {}}',
    true,
    'Nothing was saved: The disk is full.',
  ]);
  draft.edit('{"mine": {"a": 1}}');
  expect(draft.unsaved).toBeNull();
});

test('where only the answer was lost, it is saved', async () => {
  draft.edit('{"mine": {}}');
  service.refuses = { error: new Unreachable('/'), written: true };
  expect(await draft.save()).toBe(true);
  expect([draft.dirty, draft.unsaved]).toEqual([false, null]);
});

test('a text that could not be checked is told as that, and is checked when it is looked at again', async () => {
  const check = service.post.bind(service);
  service.post = () => Promise.reject(new ApiError('It is too long.', 413));
  draft.edit('{"mine": {}}');
  await vi.advanceTimersByTimeAsync(1000);
  expect([draft.checked, draft.unchecked]).toEqual([false, 'It is too long.']);
  service.post = check;
  draft.rest();
  await draft.load();
  await vi.advanceTimersByTimeAsync(0);
  expect([draft.text, draft.checked, draft.unchecked]).toEqual(['{"mine": {}}', true, null]);
});
