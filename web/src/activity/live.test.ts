import { expect, test } from 'vitest';

import type { RunningRequest } from '../api/types';
import { LIVE_STATES, liveState } from './live';

const asked: RunningRequest = {
  ...{ id: 'a', model: 'smol', key: null, route: '/v1/chat/completions', stream: true, started: 1 },
  ...{ state: 'running', leased_at: 2, first_byte_at: null, bytes: 0, tokens: 0 },
};
const title = (changes: Partial<RunningRequest>) => LIVE_STATES[liveState({ ...asked, ...changes })].title;

test('one without its model waits', () => {
  expect(title({ state: 'waiting', leased_at: null })).toBe('waiting');
});

test('one that has its model may be queued there: nobody says that its prompt is read', () => {
  expect(title({})).toBe('no token yet');
  expect(title({ stream: false })).toBe('in one piece');
});

test('it writes from its first token on', () => {
  expect(title({ first_byte_at: 3, tokens: 1 })).toBe('writing');
});
