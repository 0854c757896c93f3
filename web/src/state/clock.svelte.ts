import { createSubscriber } from 'svelte/reactivity';

/** The present second, for times that are counted on the page: it ticks only while something reads it. */
class Clock {
  #subscribe = createSubscriber((update) => {
    const timer = setInterval(update, 1000);
    return () => clearInterval(timer);
  });

  /** Seconds since the epoch. */
  get now(): number {
    this.#subscribe();
    return Date.now() / 1000;
  }
}

export const clock = new Clock();
