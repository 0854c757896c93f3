import { createSubscriber } from 'svelte/reactivity';

import type { Timed } from '../api/client';

/** The present second, for times that are counted on the page: it ticks only while something reads it. */
class Clock {
  /** Milliseconds that the service's clock is ahead of this browser's. */
  #offset = $state(0);

  #subscribe = createSubscriber((update) => {
    const timer = setInterval(update, 1000);
    return () => clearInterval(timer);
  });

  /** By the clock of the service, of which its times are: seconds since the epoch. */
  get now(): number {
    return this.here + this.#offset / 1000;
  }

  /** By the clock of this browser, for what began here: seconds since the epoch. */
  get here(): number {
    this.#subscribe();
    return Date.now() / 1000;
  }

  /** The service dated an answer, in whole seconds: its clock was there at some moment between sending and coming. */
  heard({ sent, date, came }: Timed): void {
    const [least, most] = [date - came, date + 1000 - sent];
    // What agrees with all answers stays as it is: times on the page do not jump.
    this.#offset = Math.min(Math.max(this.#offset, least), most);
  }

  /** Another service. */
  reset(): void {
    this.#offset = 0;
  }
}

export const clock = new Clock();
