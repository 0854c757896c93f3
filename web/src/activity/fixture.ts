import type { EndedRequest, Sample } from '../api/types';

/** For tests: a request that went well. */
export function ended(n: number, changes: Partial<EndedRequest> = {}): EndedRequest {
  return {
    n,
    id: `id-${n}`,
    model: 'smol',
    key: 'k1',
    route: '/v1/chat/completions',
    stream: true,
    outcome: 'ok',
    started: 1000 + n,
    waited: 1,
    first_token: 3,
    prompt_seconds: 1.5,
    seconds: 10,
    bytes: 100,
    prompt_tokens: 20,
    cached_tokens: 5,
    completion_tokens: 70,
    tokens_per_second: 10,
    captured: false,
    ...changes,
  };
}

/** For tests: a look at a service with one device. */
export function sample(at: number, changes: Partial<Sample> = {}): Sample {
  return {
    ...{ at, running: 0, waiting: 0, prompt_tokens_per_second: 0, completion_tokens_per_second: 0, requests: 0 },
    memory: { host: { models: 1, used: 2, total: 4, room: 3 } },
    ...changes,
  };
}
