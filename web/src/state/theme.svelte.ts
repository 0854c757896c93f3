const NAME = 'llamaherd.theme';

export type Theme = 'system' | 'light' | 'dark';

/** Light or dark: what the system says, unless somebody chose. */
class Choice {
  theme = $state<Theme>('system');

  /** What is shown now. */
  dark = $state(false);

  constructor() {
    try {
      const kept = localStorage.getItem(NAME);
      if (kept === 'light' || kept === 'dark') this.theme = kept;
    } catch {
      // nothing may be kept here
    }
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#apply());
    this.#apply();
  }

  choose(theme: Theme): void {
    this.theme = theme;
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // as above
    }
    this.#apply();
  }

  #apply(): void {
    this.dark =
      this.theme === 'dark' || (this.theme === 'system' && matchMedia('(prefers-color-scheme: dark)').matches);
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
  }
}

export const appearance = new Choice();
