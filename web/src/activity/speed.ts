/** How many tokens there were at some moments (milliseconds), and so how fast they come now. */
export class Speed {
  #seen: { at: number; tokens: number }[] = [];

  /** `over`: milliseconds that are looked back. */
  constructor(private readonly over = 3000) {}

  note(at: number, tokens: number): void {
    this.#seen.push({ at, tokens });
    // One that is older than the time in question is kept, to begin it with.
    while (this.#seen.length > 2 && at - this.#seen[1]!.at >= this.over) this.#seen.shift();
  }

  /** Tokens a second; null before two looks. */
  get value(): number | null {
    const first = this.#seen[0];
    const last = this.#seen.at(-1);
    if (!first || !last || last.at <= first.at) return null;
    return Math.max(0, (1000 * (last.tokens - first.tokens)) / (last.at - first.at));
  }
}
