/** The part of the address behind `#/`: a page and what it shows, as `#/logs/some%2Fmodel`. No key is ever in it. */
class Route {
  parts = $state<string[]>(read());

  constructor() {
    addEventListener('hashchange', () => (this.parts = read()));
  }

  get page(): string {
    return this.parts[0] ?? '';
  }

  /** Show another page; with `replace` "back" does not lead to this one. */
  go(parts: readonly string[], replace = false): void {
    const address = href(...parts);
    if (replace) {
      history.replaceState(null, '', address);
      this.parts = read();
    } else {
      location.hash = address;
    }
  }
}

function read(): string[] {
  return location.hash
    .replace(/^#\/?/, '')
    .split('/')
    .filter(Boolean)
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part; // a % that somebody typed
      }
    });
}

/** What an anchor to that page has as its href. */
export function href(...parts: string[]): string {
  return '#/' + parts.map(encodeURIComponent).join('/');
}

export const route = new Route();
