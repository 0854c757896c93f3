const SECONDS = 10;

interface Offer {
  text: string;
  back: () => void | Promise<void>;
}

/** The last thing that was deleted, while it can be brought back. */
class Undo {
  offer = $state.raw<Offer | null>(null);
  #timer: ReturnType<typeof setTimeout> | undefined;

  propose(text: string, back: Offer['back']): void {
    clearTimeout(this.#timer);
    this.offer = { text, back };
    this.#timer = setTimeout(() => (this.offer = null), SECONDS * 1000);
  }

  async take(): Promise<void> {
    const offer = this.offer;
    this.dismiss();
    await offer?.back();
  }

  dismiss(): void {
    clearTimeout(this.#timer);
    this.offer = null;
  }
}

export const undo = new Undo();
