import type { RunningRequest } from '../api/types';

/** A request that runs, and how fast its answer comes; null where that is not known. */
export interface LiveRequest extends RunningRequest {
  speed: number | null;
}

export type LiveState = 'waiting' | 'begun' | 'writing' | 'answering';

export const LIVE_STATES: Record<LiveState, { title: string; badge: string }> = {
  waiting: { title: 'waiting', badge: '' },
  begun: { title: 'no token yet', badge: 'info' },
  writing: { title: 'writing', badge: 'ok' },
  answering: { title: 'in one piece', badge: 'info' },
};

/** One that has its model and no token may be queued for a slot there, or have its prompt read: nobody sees which. */
export function liveState({ state, stream, first_byte_at }: RunningRequest): LiveState {
  if (state === 'waiting') return 'waiting';
  if (first_byte_at !== null) return 'writing';
  return stream ? 'begun' : 'answering';
}
