import type { EndedRequest } from '../api/types';

/**
 * What a request did for a while: waited for its model, then in its engine for one of the slots, had its prompt read,
 * its answer written, or both of these. `begun`: it had its model and no token came; nobody knows what it did.
 */
export type Phase = 'waited' | 'queued' | 'begun' | 'read' | 'written' | 'answered';

/** Seconds since the start of the request. */
export interface Segment {
  phase: Phase;
  from: number;
  until: number;
  /** It follows from the speed that the engine told of, as no token was seen on its way. */
  estimated: boolean;
}

/** `fill`: its background. Waiting is striped: it is told apart without colour, too. */
export const PHASES: Record<Phase, { title: string; fill: string }> = {
  waited: { title: 'Waited', fill: striped('--line-strong', -45) },
  queued: { title: 'Waited for a slot of the model', fill: striped('--series-5', 45) },
  begun: { title: 'Until the first token', fill: 'var(--series-6)' },
  read: { title: 'Prompt read', fill: 'var(--series-2)' },
  written: { title: 'Answer written', fill: 'var(--series-1)' },
  answered: { title: 'Read and answered', fill: 'var(--series-4)' },
};

/** A shorter wait for a slot is what a request takes on its way, in seconds. */
const NOTABLE = 0.02;

type Timed = Pick<
  EndedRequest,
  'waited' | 'first_token' | 'prompt_seconds' | 'seconds' | 'stream' | 'completion_tokens' | 'tokens_per_second'
>;

/** In order, from the start to the end; what took no time is left out. */
export function segmentsOf(request: Timed): Segment[] {
  const end = Math.max(0, request.seconds);
  const waited = within(request.waited ?? end, 0, end);
  const segments: Segment[] = [];
  const add = (phase: Phase, from: number, until: number, estimated = false): void => {
    if (until > from) segments.push({ phase, from, until, estimated });
  };
  const addRead = (first: number, estimated = false): void => {
    if (request.prompt_seconds === null) {
      add('begun', waited, first, estimated);
      return;
    }
    const begun = within(first - request.prompt_seconds, waited, first);
    if (begun - waited > NOTABLE) add('queued', waited, begun, estimated);
    add('read', begun, first, estimated);
  };
  add('waited', 0, waited);
  if (request.first_token !== null) {
    const first = within(request.first_token, waited, end);
    addRead(first);
    add('written', first, end);
  } else if (request.stream) {
    addRead(end);
  } else if (request.tokens_per_second && request.completion_tokens) {
    const first = within(end - request.completion_tokens / request.tokens_per_second, waited, end);
    addRead(first, true);
    add('written', first, end, true);
  } else {
    add('answered', waited, end);
  }
  return segments;
}

/** The phases that there are in any of them, in order. */
export function phasesOf(requests: readonly Timed[]): Phase[] {
  const found = new Set(requests.flatMap((request) => segmentsOf(request).map(({ phase }) => phase)));
  return (Object.keys(PHASES) as Phase[]).filter((phase) => found.has(phase));
}

/** How fast its prompt was read, in tokens a second without those that were cached; null: the engine did not say. */
export function promptSpeed(
  request: Pick<EndedRequest, 'prompt_tokens' | 'cached_tokens' | 'prompt_seconds'>,
): number | null {
  const { prompt_tokens, cached_tokens, prompt_seconds } = request;
  if (prompt_tokens === null || !prompt_seconds) return null;
  return Math.max(0, prompt_tokens - (cached_tokens ?? 0)) / prompt_seconds;
}

/** The longest of them all, in seconds: what a common scale ends at. */
export function longest(requests: readonly Pick<EndedRequest, 'seconds'>[]): number {
  return requests.reduce((most, { seconds }) => Math.max(most, seconds), 0);
}

function within(value: number, least: number, most: number): number {
  return Math.min(Math.max(value, least), most);
}

function striped(color: string, degrees: number): string {
  const faint = `color-mix(in srgb, var(${color}) 35%, transparent)`;
  return `repeating-linear-gradient(${degrees}deg, var(${color}) 0 3px, ${faint} 3px 6px)`;
}
