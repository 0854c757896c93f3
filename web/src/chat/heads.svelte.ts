import { isListed } from './owner';
import type { Head, Owner } from './types';

/** The conversations without their turns. */
export class Heads {
  /** Those of other keys and services too. */
  all = $state<Head[]>([]);
  /** What is listed, newest first. */
  newestFirst = $derived.by(() => {
    const present = this.owner();
    return this.all
      .filter(({ owner }) => isListed(owner, present))
      .toSorted((one, other) => other.changed - one.changed);
  });
  /** What is stored in this browser beside that. */
  unlisted = $derived.by(() => {
    const present = this.owner();
    return this.all.filter(({ owner }) => !isListed(owner, present));
  });
  /** Counts what was written, here or in another tab: what was found before may be old. */
  revision = $state(0);
  /** The revision with which each was written last. */
  #written = new Map<string, number>();

  /** `owner`: whose are listed. */
  constructor(readonly owner: () => Owner | null) {}

  find(id: string): Head | undefined {
    return this.all.find((head) => head.id === id);
  }

  listed(id: string): Head | undefined {
    return this.newestFirst.find((head) => head.id === id);
  }

  /** Add some, or make those that are there already what is given. */
  take(heads: readonly Head[]): void {
    const known = new Map(this.all.map((head) => [head.id, head]));
    const added: Head[] = [];
    for (const head of heads) {
      const there = known.get(head.id);
      if (there) Object.assign(there, head);
      else added.push(head);
    }
    this.all.push(...added);
  }

  remove(ids: readonly string[]): void {
    const gone = new Set(ids);
    this.all = this.all.filter(({ id }) => !gone.has(id));
  }

  /** What is stored of these is new. */
  renewed(ids: readonly string[]): void {
    this.revision += 1;
    for (const id of ids) this.#written.set(id, this.revision);
  }

  version(id: string): number {
    return this.#written.get(id) ?? 0;
  }
}
