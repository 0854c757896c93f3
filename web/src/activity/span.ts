import type { EndedRequest } from '../api/types';
import type { Span } from '../ui/chart';
import { time } from '../ui/format';

type Timed = Pick<EndedRequest, 'started' | 'seconds'>;

export function endOf({ started, seconds }: Timed): number {
  return started + seconds;
}

/** Whether a request was there at some moment of a time. */
export function isWithin(request: Timed, [from, until]: Span): boolean {
  return request.started <= until && endOf(request) >= from;
}

/** A time of some minutes in words. */
export function spanWords([from, until]: Span): string {
  return `${time(from)} – ${time(until)}`;
}
