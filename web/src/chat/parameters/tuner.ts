import { getContext, setContext } from 'svelte';

import type { NumberName } from './parameters';

/** Shows the parameters that an answer (else: the conversation) is asked with, at one of them. */
export type Tuner = (field: NumberName, answer?: string) => void;

export const TUNER = Symbol('what shows the parameters');

/** For all within a component. */
export function provideTuner(tuner: Tuner): void {
  setContext(TUNER, tuner);
}

/** Undefined: there is no place for parameters here. */
export function tunerHere(): Tuner | undefined {
  return getContext<Tuner | undefined>(TUNER);
}
