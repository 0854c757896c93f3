import type { LogItem, LogLine } from './items';

type NewLine = Omit<LogLine, 'kind' | 'key'>;

/**
 * Puts what several connections tell of one log in order: nothing twice, and what is missing is named.
 *
 * Lines count from 1 in each run: of the service, or of a model's engine. A connection begins with the run that it tells of.
 */
export class Sequence {
  #key = 0;
  #run: string | null = null;
  /** The number of the last line; null: what was before the next one was not asked for. */
  #last: number | null = null;

  /** `dense`: every line is told, so that a number which is left out is a line that was lost. */
  constructor(
    private readonly of: 'service' | 'model',
    private readonly dense = true,
  ) {}

  /** What comes now is of this run; `pid`: the process that writes it, where it is known. */
  run(run: string, pid: number | null = null): LogItem[] {
    if (run === this.#run) return [];
    const first = this.#run === null;
    this.#run = run;
    // Of runs that begin while somebody follows, every line counts.
    this.#last = first ? null : 0;
    // The service is there before anybody can follow it.
    if (first && this.of === 'service') return [];
    return [{ kind: 'life', key: ++this.#key, of: this.of, pid }];
  }

  line(line: NewLine): LogItem[] {
    const last = this.#last ?? line.n - 1;
    if (line.n <= last) return [];
    this.#last = line.n;
    const items: LogItem[] = [];
    const lost = line.n - last - 1;
    if (lost > 0 && this.dense) items.push({ kind: 'lost', key: ++this.#key, lost });
    items.push({ kind: 'line', key: ++this.#key, ...line });
    return items;
  }
}
