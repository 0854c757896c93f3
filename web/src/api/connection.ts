/** The service sends something each 15 s; where nothing came for that long, it hangs or the way to it is gone. */
export const SILENCE = 40_000; // milliseconds
/** A browser lets all tabs together have six connections: a page that nobody sees gives its own back. */
export const HIDDEN = 10_000;

/** Ends (by its `signal`) what is read too long in silence, or while nobody sees the page, or when `outer` ends. */
export class Connection {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #hidden: ReturnType<typeof setTimeout> | undefined;

  constructor(outer: AbortSignal) {
    this.#outer = outer;
    outer.addEventListener('abort', this.end);
    document.addEventListener('visibilitychange', this.#look);
    this.heard();
    this.#look();
    if (outer.aborted) this.end();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Something came. */
  heard(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(this.end, SILENCE);
  }

  end = (): void => {
    clearTimeout(this.#silence);
    clearTimeout(this.#hidden);
    this.#outer.removeEventListener('abort', this.end);
    document.removeEventListener('visibilitychange', this.#look);
    this.#controller.abort();
  };

  #look = (): void => {
    clearTimeout(this.#hidden);
    if (document.hidden) this.#hidden = setTimeout(this.end, HIDDEN);
  };
}

/** Until somebody sees the page, or the signal ends it. */
export function seen(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener('visibilitychange', look);
      signal.removeEventListener('abort', look);
      resolve();
    };
    document.addEventListener('visibilitychange', look);
    signal.addEventListener('abort', look);
    look();
  });
}
