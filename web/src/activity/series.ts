import type { Sample } from '../api/types';

/** The samples of the last `seconds` before `now`. */
export function lately(samples: readonly Sample[], seconds: number, now: number): Sample[] {
  return samples.filter(({ at }) => at >= now - seconds);
}

/** With the new one at its end, at most `most` of them; one that is there already, or late, changes nothing. */
export function continued(samples: readonly Sample[], next: Sample, most: number): Sample[] {
  const last = samples.at(-1);
  return last && next.at <= last.at ? [...samples] : [...samples, next].slice(-most);
}

/** `times`, and what makes a line of `null` where the service was not there (or asleep) for a while. */
export interface Timeline {
  times: number[];
  /** The values of a series, as long as `times`. */
  values: (of: (sample: Sample) => number | null | undefined) => (number | null)[];
}

/** `every`: seconds from one sample to the next. */
export function timelineOf(samples: readonly Sample[], every: number): Timeline {
  const slots: { at: number; sample: Sample | null }[] = [];
  for (const sample of samples) {
    const last = slots.at(-1);
    if (last && sample.at - last.at > 3 * every) slots.push({ at: last.at + every, sample: null });
    slots.push({ at: sample.at, sample });
  }
  return {
    times: slots.map(({ at }) => at),
    values: (of) => slots.map(({ sample }) => (sample ? (of(sample) ?? null) : null)),
  };
}

/** The devices that a sample tells of, in its order, those of the newest sample first. */
export function devicesOf(samples: readonly Sample[]): string[] {
  return [...new Set(samples.toReversed().flatMap(({ memory }) => Object.keys(memory)))];
}
