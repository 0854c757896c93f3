type Typeset = (tex: string, display: boolean) => string | null;

/** Formulas as MathML. What makes them is fetched when the first is shown. */
class Typesetter {
  #typeset = $state.raw<Typeset | null>(null);
  #loading: Promise<void> | null = null;

  load(): void {
    this.#loading ??= import('./typeset').then(
      ({ typeset }) => void (this.#typeset = typeset),
      () => void (this.#loading = null), // the next formula tries again
    );
  }

  /** HTML that may be put into the page; null while it can't be had, or where there is none. */
  html(tex: string, display: boolean): string | null {
    return this.#typeset?.(tex, display) ?? null;
  }
}

export const typesetter = new Typesetter();
