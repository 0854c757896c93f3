import { flushSync } from 'svelte';
import { beforeEach, expect, test, vi } from 'vitest';

import { feed } from '../state/feed.svelte';
import { Resource } from './resource.svelte';

interface Question {
  answer: (value: string) => void;
  fail: (error: Error) => void;
}

let questions: Question[];
let resource: Resource<string>;

beforeEach(() => {
  questions = [];
  resource = new Resource(
    () => new Promise<string>((answer, fail) => questions.push({ answer, fail: (error) => fail(error) })),
  );
});

test('what was known stays where asking again fails, and the reason is told', async () => {
  const first = resource.load();
  questions[0]!.answer('one');
  await first;
  const second = resource.load();
  questions[1]!.fail(new Error('It is down.'));
  await second;
  expect([resource.value, resource.problem]).toEqual(['one', 'It is down.']);
});

test('an answer to an earlier question does not take the place of a later one', async () => {
  const loads = [resource.load(), resource.load()];
  questions[1]!.answer('new');
  await loads[1];
  questions[0]!.answer('old');
  await loads[0];
  expect(resource.value).toBe('new');
});

test('it is shown as it comes, even where it is asked again all the time', async () => {
  const first = resource.load();
  void resource.load();
  questions[0]!.answer('one');
  await first;
  expect(resource.value).toBe('one');
});

test('followed, it is asked at events, and nothing counts after the end', async () => {
  const listen = vi.spyOn(feed, 'on');
  const end = $effect.root(() => resource.follow(['snapshot']));
  flushSync();
  expect(questions.length).toBe(1);
  const heard = listen.mock.calls.find(([kind]) => kind === 'snapshot')![1];
  heard({});
  expect(questions.length).toBe(2);
  end();
  questions[1]!.answer('late');
  await Promise.resolve();
  expect(resource.value).toBeNull();
  listen.mockRestore();
});
