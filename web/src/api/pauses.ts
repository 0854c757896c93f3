const FIRST = 500; // milliseconds, as all here
/** About the longest, as long as a loss is young, as by a service that is started again; and later. Chance adds up to a quarter. */
const LONGEST_SOON = 2400;
const LONGEST = 8000;
const YOUNG = 60_000;

/** What ends each of the rests that go on, where somebody has been answered again. */
const resting = new Set<() => void>();

/** The pauses between tries: each about twice the one before, and no two pages in step. */
export class Pauses {
  #next = FIRST;
  /** When the loss began; null: there is none. */
  #since: number | null = null;

  /** How long to rest. */
  next(): number {
    const now = performance.now();
    this.#since ??= now;
    const pause = this.#next * (0.75 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, now - this.#since < YOUNG ? LONGEST_SOON : LONGEST);
    return pause;
  }

  /** It went well: the next pause is a short one again. After a loss nobody else rests any longer. */
  reset(): void {
    if (this.#since === null) return;
    this.#since = null;
    this.#next = FIRST;
    for (const end of [...resting]) end();
  }
}

/**
 * Until the time is over, or sooner where trying again may help: the network is back, the page is looked at again, or
 * somebody else was answered.
 */
export function rest(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const begun = performance.now();
    const done = (): void => {
      clearTimeout(timer);
      resting.delete(answered);
      removeEventListener('online', done);
      document.removeEventListener('visibilitychange', seen);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const seen = (): void => {
      if (!document.hidden) done();
    };
    // Two that are answered and lose it at once would else wake each other without end.
    const answered = (): void => {
      const least = Math.min(FIRST, milliseconds) - (performance.now() - begun);
      clearTimeout(timer);
      if (least > 0) timer = setTimeout(done, least);
      else done();
    };
    let timer = setTimeout(done, milliseconds);
    resting.add(answered);
    addEventListener('online', done);
    document.addEventListener('visibilitychange', seen);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}
