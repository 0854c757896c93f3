const FIRST = 500; // milliseconds
const LONGEST = 10_000;

/** The pauses between tries: each about twice the one before, and no two pages in step. */
export class Pauses {
  #next = FIRST;

  /** Milliseconds. */
  next(): number {
    const pause = this.#next * (0.75 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, LONGEST);
    return pause;
  }

  /** It went well: the next pause is a short one again. */
  reset(): void {
    this.#next = FIRST;
  }
}

/** Until the time is over, or sooner where trying again may help: the network is back, or the page is looked at again. */
export function rest(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      removeEventListener('online', done);
      document.removeEventListener('visibilitychange', seen);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const seen = (): void => {
      if (!document.hidden) done();
    };
    const timer = setTimeout(done, milliseconds);
    addEventListener('online', done);
    document.addEventListener('visibilitychange', seen);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}
