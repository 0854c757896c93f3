import { describe, expect, test } from 'vitest';

import type { PullError } from '../../api/types';
import { pull } from '../testing';
import { advice, amount, isRepeated, isWhole, merged, part, remaining, requestOf, sorted, title } from './pulls';

const MIB = 2 ** 20;

function choice(...quants: string[]): PullError {
  const choices = quants.map((quant) => ({ quant, bytes: null }));
  return { message: 'Say which.', code: 'invalid_request', param: 'quant', choices };
}

describe('progress', () => {
  test('is the part of all files that is there', () => {
    expect(part(pull({ bytes: 25, total: 100 }))).toBe(0.25);
    expect(part(pull({ bytes: 120, total: 100 }))).toBe(1);
    expect(part(pull({ bytes: 25 }))).toBeNull();
    expect(part(pull({ state: 'resolving', total: 0 }))).toBeNull();
    expect(part(pull({ state: 'done', bytes: 3 }))).toBe(1);
  });

  test('is told in bytes, of how many where that is known', () => {
    expect(amount(pull({ bytes: 25 * MIB, total: 100 * MIB }))).toBe('25 MiB of 100 MiB');
    expect(amount(pull({ bytes: 25 * MIB }))).toBe('25 MiB');
    expect(amount(pull())).toBeNull();
    expect(amount(pull({ state: 'done', bytes: 100 * MIB, total: 100 * MIB }))).toBe('100 MiB');
  });

  test('has a time left at the pace of now', () => {
    const one = pull({ bytes: 40, total: 100, speed: 4 });
    expect(remaining(one)).toBe(15);
    expect(remaining({ ...one, total: 341 })).toBe(80); // 75.25, in steps of five
    expect(remaining({ ...one, speed: 0 })).toBeNull();
    expect(remaining({ ...one, speed: null })).toBeNull();
    expect(remaining({ ...one, total: null })).toBeNull();
    expect(remaining({ ...one, state: 'done' })).toBeNull();
  });
});

describe('the list', () => {
  test('has each pull once, as the feed told of it last, the newest first', () => {
    const read = [pull({ id: 'a', created: 1, bytes: 1 }), pull({ id: 'b', created: 2, state: 'done' })];
    const told = [pull({ id: 'a', created: 1, bytes: 5 }), pull({ id: 'c', created: 3 })];
    expect(merged(read, told).map(({ id, bytes }) => [id, bytes])).toEqual([
      ['c', 0],
      ['b', 0],
      ['a', 5],
    ]);
  });

  test('shows what goes on and what has just ended, and keeps the rest for who looks', () => {
    const pulls = [
      pull({ id: 'on', source: 'org/on', created: 1 }),
      pull({ id: 'new', source: 'org/new', state: 'done', ended: 9000 }),
      pull({ id: 'put-away', source: 'org/away', state: 'failed', ended: 9000 }),
      pull({ id: 'old', source: 'org/old', state: 'done', ended: 1000 }),
    ];
    const { current, earlier } = sorted(pulls, new Set(['put-away']), 9010);
    expect(current.map(({ id }) => id)).toEqual(['on', 'new']);
    expect(earlier.map(({ id }) => id)).toEqual(['put-away', 'old']);
  });

  test('leaves out a failure that somebody has tried again', () => {
    const first = pull({ id: 'a', state: 'failed', created: 1, ended: 2 });
    const again = pull({ id: 'b', created: 3 });
    expect(sorted([first, again], new Set(), 4).current).toEqual([again]);
    expect(isRepeated(first, [first, pull({ id: 'b', created: 3, quant: 'Q8_0' })])).toBe(false);
    expect(isRepeated(again, [first, again])).toBe(false);
  });

  test('leaves out what failed for its name and was asked for with another', () => {
    const error = { message: 'It is taken.', code: 'invalid_request', param: 'name', choices: [] };
    const taken = pull({ id: 'a', state: 'failed', created: 1, name: 'mine', error });
    const other = pull({ id: 'b', created: 3, name: 'other' });
    expect(isRepeated(taken, [taken, other])).toBe(true);
    expect(isRepeated({ ...taken, error: null }, [taken, other])).toBe(false);
  });

  test('leaves out a question that was answered by choosing', () => {
    const asked = pull({ id: 'a', state: 'failed', created: 1, error: choice('Q2_K', 'Q8_0') });
    expect(isRepeated(asked, [asked, pull({ id: 'b', created: 3, quant: 'Q8_0' })])).toBe(true);
    expect(isRepeated(asked, [asked, pull({ id: 'b', created: 3, quant: 'Q4_K_M' })])).toBe(false);
  });
});

test('what is asked for again is what is known of it', () => {
  expect(requestOf(pull())).toEqual({ source: 'org/repo' });
  expect(requestOf(pull({ quant: 'Q8_0', revision: 'v2' }))).toEqual({
    source: 'org/repo',
    quant: 'Q8_0',
    revision: 'v2',
  });
  expect(requestOf(pull({ name: 'mine', mmproj: false }))).toEqual({ source: 'org/repo', name: 'mine', mmproj: false });
});

test('of an address that somebody else asked for a part may be missing', () => {
  expect(isWhole(pull({ source: 'org/repo:Q8_0' }))).toBe(true);
  expect(isWhole(pull({ source: 'https://host/model.gguf' }))).toBe(false);
});

test('who can not be reached is told with a way out; what else is wrong as the service says it', () => {
  const error = {
    message: 'https://huggingface.co/api: given up after 2 tries: no connection to huggingface.co: Name not known',
    code: 'download_failed',
    param: null,
    choices: [],
  };
  expect(advice(pull({ error }))).toMatch(/^The hub can't be reached .* \(setting hub.endpoint\) or a proxy\.$/);
  const address = advice(pull({ source: 'https://host/model.gguf', error }));
  expect(address).toMatch(/^That server can't be reached .* or set a proxy\.$/);
  expect(advice(pull({ error: { ...error, message: 'https://hub/x: does not exist (404)' } }))).toBeNull();
  expect(advice(pull({ error: { ...error, code: 'no_room' } }))).toBeNull();
  expect(advice(pull())).toBeNull();
});

test('a pull is called by what was asked for', () => {
  expect(title(pull())).toBe('org/repo');
  expect(title(pull({ quant: 'Q8_0', revision: 'v2' }))).toBe('org/repo:Q8_0 at v2');
  expect(title(pull({ source: 'org/repo:Q8_0', quant: 'Q8_0' }))).toBe('org/repo:Q8_0');
});
