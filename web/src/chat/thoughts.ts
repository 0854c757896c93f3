const OPEN = '<think>';
const CLOSE = '</think>';

/** Takes thoughts out of an answer whose engine leaves them in the text: `<think>…</think>` at its beginning. */
export class ThoughtSplitter {
  #state: 'beginning' | 'thinking' | 'behind' | 'text' = 'beginning';
  /** What may be the beginning of a mark. */
  #held = '';

  constructor(
    private readonly ontext: (text: string) => void,
    private readonly onthought: (text: string) => void,
  ) {}

  take(piece: string): void {
    this.#held += piece;
    if (this.#state === 'beginning') this.#begin();
    if (this.#state === 'thinking') this.#think();
    if (this.#state === 'behind') this.#skip();
    if (this.#state === 'text') this.#say();
  }

  /** Nothing more comes. */
  end(): void {
    if (this.#state === 'thinking') this.#tell(this.#held.trimEnd());
    else if (this.#state !== 'behind') this.#say();
    this.#held = '';
  }

  #begin(): void {
    const begun = this.#held.trimStart();
    if (begun.startsWith(OPEN)) {
      // Thoughts begin with a line feed, and those that are nothing else are none.
      this.#held = begun.slice(OPEN.length).trimStart();
      this.#state = 'thinking';
    } else if (!OPEN.startsWith(begun)) {
      this.#state = 'text';
    }
  }

  #think(): void {
    const end = this.#held.indexOf(CLOSE);
    if (end >= 0) {
      this.#tell(this.#held.slice(0, end).trimEnd());
      this.#held = this.#held.slice(end + CLOSE.length);
      this.#state = 'behind';
      return;
    }
    const mark = this.#held.lastIndexOf('<');
    const begun = mark >= 0 && CLOSE.startsWith(this.#held.slice(mark)) ? mark : this.#held.length;
    // Spaces wait too: they may be the last ones.
    const told = this.#held.slice(0, begun).trimEnd();
    this.#tell(told);
    this.#held = this.#held.slice(told.length);
  }

  /** Line feeds between the thoughts and the answer. */
  #skip(): void {
    this.#held = this.#held.trimStart();
    if (this.#held) this.#state = 'text';
  }

  #say(): void {
    if (this.#held) this.ontext(this.#held);
    this.#held = '';
  }

  #tell(thought: string): void {
    if (thought) this.onthought(thought);
  }
}
