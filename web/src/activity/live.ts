import type { RunningRequest } from '../api/types';

/** A request that runs, and how fast its answer comes; null where that is not known. */
export interface LiveRequest extends RunningRequest {
  speed: number | null;
}

export type LiveState = 'waiting' | 'reading' | 'writing' | 'answering';

export const LIVE_STATES: Record<LiveState, { title: string; badge: string }> = {
  waiting: { title: 'waiting', badge: '' },
  reading: { title: 'reading the prompt', badge: 'info' },
  writing: { title: 'writing', badge: 'ok' },
  answering: { title: 'answering', badge: 'ok' },
};

/** Of an answer in one piece nobody sees when its prompt was read. */
export function liveState({ state, stream, first_byte_at }: RunningRequest): LiveState {
  if (state === 'waiting') return 'waiting';
  if (first_byte_at !== null) return 'writing';
  return stream ? 'reading' : 'answering';
}
