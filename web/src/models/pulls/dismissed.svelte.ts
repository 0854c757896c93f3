import type { Pull } from '../../api/types';
import { keep, keptJson } from '../../state/kept';

const NAME = 'llamaherd.dismissed';

/** The ids of pulls that somebody put away, in all tabs of this browser, until the service has forgotten them. */
export class Dismissed {
  ids = $state.raw<ReadonlySet<string>>(keptIds());

  /** Follow the other tabs. Returns what ends that. */
  follow(): () => void {
    const changed = ({ key }: StorageEvent): void => {
      if (key === NAME || key === null) this.ids = keptIds();
    };
    addEventListener('storage', changed);
    return () => removeEventListener('storage', changed);
  }

  add(id: string): void {
    this.#keep([...this.ids, ...keptIds(), id]);
  }

  /** These are all that the service knows. */
  prune(pulls: readonly Pull[]): void {
    const known = new Set(pulls.map(({ id }) => id));
    const left = [...this.ids].filter((id) => known.has(id));
    if (left.length < this.ids.size) this.#keep(left);
  }

  #keep(ids: string[]): void {
    this.ids = new Set(ids);
    keep(NAME, JSON.stringify([...this.ids]));
  }
}

function keptIds(): ReadonlySet<string> {
  const ids = keptJson(NAME);
  return new Set(Array.isArray(ids) ? ids.filter((id) => typeof id === 'string') : []);
}
