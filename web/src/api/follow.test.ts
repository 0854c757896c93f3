import type { ServerResponse } from 'node:http';

import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { events, json, serve, until } from '../testing/server';
import { Client, type ApiError, type StreamMessage } from './client';
import { HIDDEN, SILENCE } from './connection';
import { follow } from './follow';
import { Pauses, rest } from './pauses';

interface Opened {
  response: ServerResponse;
  after: string | undefined;
  /** Whether the page has left it. */
  left: boolean;
}

let opened: Opened[];
let told: string[];
let taken: StreamMessage[];
let end: () => void;
let answer: (response: ServerResponse) => unknown;
let hidden: boolean;

async function begin(refused: (error: ApiError) => boolean = () => true): Promise<void> {
  const base = await serve((request, response) => {
    const one = { response, after: request.headers['last-event-id'] as string | undefined, left: false };
    response.on('close', () => (one.left = true));
    opened.push(one);
    answer(response);
  });
  end = follow({
    client: new Client(base, null),
    path: '/feed',
    opened: () => told.push('opened'),
    take: (message) => taken.push(message),
    lost: () => told.push('lost'),
    refused: (error) => {
      told.push(`refused ${error.status}`);
      return refused(error);
    },
  });
}

function look(away: boolean): void {
  hidden = away;
  document.dispatchEvent(new Event('visibilitychange'));
}

beforeEach(() => {
  [opened, told, taken, hidden] = [[], [], [], false];
  answer = (response) => events(response);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  vi.spyOn(document, 'hidden', 'get').mockImplementation(() => hidden);
});

afterEach(() => {
  end();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** Events are written once the headers are there. */
function send(at: number, data: unknown, id?: string): void {
  opened[at]!.response.write(`${id ? `id: ${id}\n` : ''}data: ${JSON.stringify(data)}\n\n`);
}

test('it goes on after the last id that came', async () => {
  await begin();
  await until(() => told.length === 1);
  send(0, 1, 'boot-1');
  send(0, 2);
  await until(() => taken.length === 2);
  opened[0]!.response.destroy();
  await until(() => told.length === 2);
  await vi.advanceTimersByTimeAsync(625);
  await until(() => opened.length === 2);
  expect(opened.map(({ after }) => after)).toEqual([undefined, 'boot-1']);
  await until(() => told.length === 3);
  expect(told).toEqual(['opened', 'lost', 'opened']);
});

test('what it could not take comes again', async () => {
  await begin();
  await until(() => told.length === 1);
  const push = vi.spyOn(taken, 'push').mockImplementationOnce(() => {
    throw new Error('broken');
  });
  send(0, 1, 'boot-1');
  await until(() => told.length === 2);
  await vi.advanceTimersByTimeAsync(625);
  await until(() => opened.length === 2);
  expect([opened[1]!.after, push.mock.calls.length]).toEqual([undefined, 1]);
});

test('a service that is connected and says nothing is away', async () => {
  await begin();
  await until(() => told.length === 1);
  await vi.advanceTimersByTimeAsync(SILENCE - 1);
  send(0, 'still here');
  await until(() => taken.length === 1);
  await vi.advanceTimersByTimeAsync(SILENCE - 1);
  expect(told).toEqual(['opened']);
  await vi.advanceTimersByTimeAsync(1);
  await until(() => told.length === 2 && opened[0]!.left);
  expect(told).toEqual(['opened', 'lost']);
});

test('so is one that does not even answer', async () => {
  answer = () => undefined;
  await begin();
  await until(() => opened.length === 1);
  await vi.advanceTimersByTimeAsync(SILENCE);
  await until(() => told.length === 1 && opened[0]!.left);
  expect(told).toEqual(['lost']);
});

test('a page that nobody sees gives its connection back, which is no loss, and takes it again', async () => {
  await begin();
  await until(() => told.length === 1);
  send(0, 1, 'boot-1');
  await until(() => taken.length === 1);
  look(true);
  await vi.advanceTimersByTimeAsync(HIDDEN - 1);
  expect(opened[0]!.left).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  await until(() => opened[0]!.left);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(opened.length).toBe(1);
  look(false);
  await until(() => told.length === 2);
  expect([opened[1]!.after, told]).toEqual(['boot-1', ['opened', 'opened']]);
});

test('a page that is seen again soon keeps it', async () => {
  await begin();
  await until(() => told.length === 1);
  look(true);
  await vi.advanceTimersByTimeAsync(HIDDEN - 1);
  look(false);
  await vi.advanceTimersByTimeAsync(HIDDEN);
  send(0, 1);
  await until(() => taken.length === 1);
  expect(opened.length).toBe(1);
});

test('a page that was opened unseen waits', async () => {
  hidden = true;
  await begin();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(opened.length).toBe(0);
  look(false);
  await until(() => told.length === 1);
});

test('what is refused for good is not asked for again', async () => {
  answer = (response) => json(response, { error: 'no' }, 403);
  await begin();
  await until(() => told.length === 1);
  await vi.advanceTimersByTimeAsync(60_000);
  expect([told, opened.length]).toEqual([['refused 403'], 1]);
});

test('what is refused for now is, after longer and longer pauses, until it says something', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  answer = (response) => json(response, { error: 'not now' }, 503);
  await begin(() => false);
  for (const [at, pause] of [500, 1000, 2000].entries()) {
    await until(() => told.filter((word) => word === 'lost').length === at + 1);
    await vi.advanceTimersByTimeAsync(pause - 1);
    expect(opened.length).toBe(at + 1);
    if (at === 2) answer = (response) => events(response)('message', 1);
    await vi.advanceTimersByTimeAsync(1);
    await until(() => opened.length === at + 2);
  }
  await until(() => taken.length === 1);
  opened[3]!.response.destroy();
  await until(() => told.at(-1) === 'lost');
  await vi.advanceTimersByTimeAsync(500);
  await until(() => opened.length === 5);
});

test('its pause ends soon where somebody else is answered again', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  answer = (response) => json(response, { error: 'not now' }, 503);
  await begin(() => false);
  for (const [at, pause] of [500, 1000].entries()) {
    await until(() => told.filter((word) => word === 'lost').length === at + 1);
    await vi.advanceTimersByTimeAsync(pause);
  }
  await until(() => told.filter((word) => word === 'lost').length === 3);
  const other = new Pauses();
  other.next();
  other.reset();
  await vi.advanceTimersByTimeAsync(500);
  await until(() => opened.length === 4);
});

test('once it is answered again, nobody else rests any longer', async () => {
  await begin();
  await until(() => told.length === 1);
  send(0, 1);
  await until(() => taken.length === 1);
  opened[0]!.response.destroy();
  await until(() => told.length === 2);
  await vi.advanceTimersByTimeAsync(625);
  await until(() => opened.length === 2 && told.length === 3);
  const over = vi.fn();
  void rest(60_000, new AbortController().signal).then(over);
  send(1, 2);
  await until(() => taken.length === 2);
  await vi.advanceTimersByTimeAsync(500);
  expect(over).toHaveBeenCalled();
});

test.each([
  ['connected', () => undefined],
  ['between two tries', () => opened[0]!.response.destroy()],
  ['unseen', () => look(true)],
])('stopped while it is %s, it leaves nothing behind', async (_, before) => {
  const added = vi.spyOn(document, 'addEventListener');
  const removed = vi.spyOn(document, 'removeEventListener');
  const set = vi.spyOn(globalThis, 'setTimeout');
  const cleared = vi.spyOn(globalThis, 'clearTimeout');
  await begin();
  await until(() => told.length === 1);
  before();
  if (opened[0]!.response.destroyed) await until(() => told.length === 2);
  end();
  await until(() => opened[0]!.left);
  await new Promise((resolve) => setImmediate(resolve));
  expect(added.mock.calls.filter(([, one]) => !removed.mock.calls.some(([, other]) => one === other))).toEqual([]);
  // The others are of Node's fetch.
  const own = set.mock.results.filter((_, at) => [SILENCE, HIDDEN].includes(set.mock.calls[at]![1]!));
  expect(own.length).toBeGreaterThan(0);
  expect(own.filter(({ value }) => !cleared.mock.calls.some(([timer]) => timer === value))).toEqual([]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(opened.length).toBe(1);
});
