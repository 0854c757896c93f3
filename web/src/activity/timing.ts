import type { EndedRequest } from '../api/types';

/** What a request did for a while: waited for its model, had its prompt read, its answer written, or both of these. */
export type Phase = 'waited' | 'read' | 'written' | 'answered';

/** Seconds since the start of the request. */
export interface Segment {
  phase: Phase;
  from: number;
  until: number;
  /** It follows from the speed that the engine told of, as no token was seen on its way. */
  estimated: boolean;
}

export const PHASES: Record<Phase, { title: string; color: string }> = {
  waited: { title: 'Waited', color: '--line-strong' },
  read: { title: 'Prompt read', color: '--series-2' },
  written: { title: 'Answer written', color: '--series-1' },
  answered: { title: 'Read and answered', color: '--series-4' },
};

type Timed = Pick<
  EndedRequest,
  'waited' | 'first_token' | 'seconds' | 'stream' | 'completion_tokens' | 'tokens_per_second'
>;

/** From the start to the end without a gap; what took no time is left out. */
export function segmentsOf(request: Timed): Segment[] {
  const end = Math.max(0, request.seconds);
  const waited = within(request.waited ?? end, 0, end);
  const segments: Segment[] = [];
  const add = (phase: Phase, from: number, until: number, estimated = false): void => {
    if (until > from) segments.push({ phase, from, until, estimated });
  };
  add('waited', 0, waited);
  if (request.first_token !== null) {
    const first = within(request.first_token, waited, end);
    add('read', waited, first);
    add('written', first, end);
  } else if (request.stream) {
    add('read', waited, end);
  } else if (request.tokens_per_second && request.completion_tokens) {
    const first = within(end - request.completion_tokens / request.tokens_per_second, waited, end);
    add('read', waited, first, true);
    add('written', first, end, true);
  } else {
    add('answered', waited, end);
  }
  return segments;
}

/** The longest of them all, in seconds: what a common scale ends at. */
export function longest(requests: readonly Pick<EndedRequest, 'seconds'>[]): number {
  return requests.reduce((most, { seconds }) => Math.max(most, seconds), 0);
}

function within(value: number, least: number, most: number): number {
  return Math.min(Math.max(value, least), most);
}
