const LEAST = 2;
const LINGER = 10_000; // milliseconds

/** How many rows a list has room for: it grows at once, and shrinks when fewer were enough for a while. */
export class Rows {
  now = $state(LEAST);

  #wanted = LEAST;
  /** The most that were wanted since the timer began. */
  #most = LEAST;
  #held = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly greatest: number) {}

  /** There are so many. */
  want(rows: number): void {
    this.#wanted = Math.min(this.greatest, Math.max(LEAST, rows));
    this.#most = Math.max(this.#most, this.#wanted);
    if (this.#wanted >= this.now) {
      this.now = this.#wanted;
      this.stop();
    } else this.#start();
  }

  /** Somebody is in it, and may be about to press something: nothing below it moves up. */
  set held(held: boolean) {
    if (held === this.#held) return;
    this.#held = held;
    this.stop();
    if (this.#wanted < this.now) this.#start();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #start(): void {
    if (this.#held || this.#timer !== undefined) return;
    this.#most = this.#wanted;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.now = this.#most;
      if (this.#wanted < this.now) this.#start();
    }, LINGER);
  }
}
