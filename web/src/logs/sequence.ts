import type { LogItem, LogLine } from './items';

type NewLine = Omit<LogLine, 'kind' | 'key'>;

const REMEMBERED = 2000; // lines: more than the service sends again

/**
 * Puts what several connections tell of one log in order: nothing twice, and what is missing is named.
 *
 * Lines count from 1 in each life. After `reconnected` the last lines come again, of the same life or of another one.
 */
export class Sequence {
  #key = 0;
  #last = 0;
  #pid: number | null = null;
  /** What was before the next line was not asked for, so that it is not lost. */
  #first = true;
  /** It is open whether what comes is of the life that is known. */
  #returns = false;
  /** The last lines by their number, to know a life again. */
  #known = new Map<number, string>();

  /** The next events are of another connection. */
  reconnected(): void {
    this.#returns = this.#known.size > 0;
  }

  /** A life begins, or (after `reconnected`) its last lines are about to be told again. */
  life(pid: number | null): LogItem[] {
    if (this.#returns && (pid === null || this.#pid === null || pid === this.#pid)) {
      this.#pid ??= pid;
      return [];
    }
    return this.#begin(pid);
  }

  line(line: NewLine): LogItem[] {
    const items = this.#returns && this.#isOther(line) ? this.#begin(null) : [];
    this.#returns = false;
    if (this.#first) this.#last = line.n - 1;
    this.#first = false;
    if (line.n <= this.#last) return items;
    const lost = line.n - this.#last - 1;
    if (lost > 0) items.push({ kind: 'lost', key: ++this.#key, lost });
    items.push({ kind: 'line', key: ++this.#key, ...line });
    this.#last = line.n;
    this.#remember(line);
    return items;
  }

  #isOther(line: NewLine): boolean {
    const known = this.#known.get(line.n);
    return known === undefined ? line.n <= this.#last : known !== mark(line);
  }

  #begin(pid: number | null): LogItem[] {
    // Of lives that begin while somebody follows, every line counts.
    this.#first = this.#key === 0;
    this.#returns = false;
    this.#pid = pid;
    this.#last = 0;
    this.#known.clear();
    return [{ kind: 'life', key: ++this.#key, pid }];
  }

  #remember(line: NewLine): void {
    this.#known.set(line.n, mark(line));
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.keys().next().value!);
  }
}

function mark({ time, text }: NewLine): string {
  return `${time ?? ''} ${text}`;
}
