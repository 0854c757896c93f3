import { keep, kept } from '../state/kept';

const NAME = 'llamaherd.logs.wrap';

/** Whether long lines are broken: on a narrow screen they are, unless somebody chose. */
export class Wrapping {
  #chosen = $state<boolean | null>(null);

  constructor() {
    const chosen = kept(NAME);
    if (chosen === 'true' || chosen === 'false') this.#chosen = chosen === 'true';
  }

  get on(): boolean {
    return this.#chosen ?? matchMedia('(max-width: 720px)').matches;
  }

  set on(chosen: boolean) {
    this.#chosen = chosen;
    keep(NAME, String(chosen));
  }
}
