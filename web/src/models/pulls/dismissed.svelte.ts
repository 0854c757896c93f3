import type { Pull } from '../../api/types';

const NAME = 'llamaherd.dismissed';

/** The ids of pulls that somebody put away, in all tabs of this browser, until the service has forgotten them. */
export class Dismissed {
  ids = $state.raw<ReadonlySet<string>>(kept());

  /** Follow the other tabs. Returns what ends that. */
  follow(): () => void {
    const changed = ({ key }: StorageEvent): void => {
      if (key === NAME || key === null) this.ids = kept();
    };
    addEventListener('storage', changed);
    return () => removeEventListener('storage', changed);
  }

  add(id: string): void {
    this.#keep([...this.ids, ...kept(), id]);
  }

  /** These are all that the service knows. */
  prune(pulls: readonly Pull[]): void {
    const known = new Set(pulls.map(({ id }) => id));
    const left = [...this.ids].filter((id) => known.has(id));
    if (left.length < this.ids.size) this.#keep(left);
  }

  #keep(ids: string[]): void {
    this.ids = new Set(ids);
    try {
      localStorage.setItem(NAME, JSON.stringify([...this.ids]));
    } catch {
      // then until the page is closed
    }
  }
}

function kept(): ReadonlySet<string> {
  try {
    const ids: unknown = JSON.parse(localStorage.getItem(NAME) ?? '[]');
    return new Set(Array.isArray(ids) ? ids.filter((id) => typeof id === 'string') : []);
  } catch {
    return new Set(); // nothing may be kept here, or something else was
  }
}
