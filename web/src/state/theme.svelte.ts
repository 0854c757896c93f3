import { keep, kept } from './kept';

const NAME = 'llamaherd.theme';

export type Theme = 'system' | 'light' | 'dark';

/** Light or dark: what the system says, unless somebody chose. */
class Choice {
  theme = $state<Theme>('system');

  /** What is shown now. */
  dark = $state(false);

  constructor() {
    const theme = kept(NAME);
    if (theme === 'light' || theme === 'dark') this.theme = theme;
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#apply());
    this.#apply();
  }

  choose(theme: Theme): void {
    this.theme = theme;
    keep(NAME, theme);
    this.#apply();
  }

  #apply(): void {
    this.dark =
      this.theme === 'dark' || (this.theme === 'system' && matchMedia('(prefers-color-scheme: dark)').matches);
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
  }
}

export const appearance = new Choice();
