const NAME = 'llamaherd.logs.wrap';

/** Whether long lines are broken: on a narrow screen they are, unless somebody chose. */
export class Wrapping {
  #chosen = $state<boolean | null>(null);

  constructor() {
    try {
      const kept = localStorage.getItem(NAME);
      if (kept === 'true' || kept === 'false') this.#chosen = kept === 'true';
    } catch {
      // nothing may be kept here
    }
  }

  get on(): boolean {
    return this.#chosen ?? matchMedia('(max-width: 720px)').matches;
  }

  set on(chosen: boolean) {
    this.#chosen = chosen;
    try {
      localStorage.setItem(NAME, String(chosen));
    } catch {
      // as above
    }
  }
}
