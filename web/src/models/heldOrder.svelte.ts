import { arranged } from './listing';

// A finger does not stay where somebody looks. Milliseconds.
const AFTER_TOUCH = 30_000;

/** An order of rows that stands still while somebody looks at them: nothing moves under a pointer, a finger, the focus. */
export class HeldOrder {
  #held = $state.raw<string[] | null>(null);
  #pointer = false;
  #focus = false;
  #touched: ReturnType<typeof setTimeout> | undefined;

  names = $derived.by(() => arranged(this.wanted(), this.#held, this.exists));

  constructor(
    private readonly wanted: () => string[],
    private readonly exists: (name: string) => boolean,
  ) {}

  /** A mouse is over the rows, or has left them. */
  pointer(over: boolean): void {
    this.#pointer = over;
    this.#change();
  }

  focus(within: boolean): void {
    this.#focus = within;
    this.#change();
  }

  touch(): void {
    clearTimeout(this.#touched);
    this.#touched = setTimeout(() => {
      this.#touched = undefined;
      this.#change();
    }, AFTER_TOUCH);
    this.#change();
  }

  /** Put them in order now: another one was asked for. */
  renew(): void {
    clearTimeout(this.#touched);
    this.#touched = undefined;
    this.#held = null;
  }

  #change(): void {
    const hold = this.#pointer || this.#focus || this.#touched !== undefined;
    if (!hold) this.#held = null;
    else this.#held ??= this.names;
  }
}
