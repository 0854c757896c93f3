import { messageOf } from '../api/client';

export interface Toast {
  id: number;
  kind: 'info' | 'error';
  text: string;
}

const SECONDS = { info: 4, error: 10 };

/** Short messages over the page. */
class Toasts {
  list = $state<Toast[]>([]);
  /** The places that could show them: that of the page, and of each open dialog. */
  #places = $state.raw<readonly symbol[]>([]);
  #last = 0;

  /** Show them there, until the function is called that this returns. */
  showAt(place: symbol): () => void {
    this.#places = [...this.#places, place];
    return () => (this.#places = this.#places.filter((other) => other !== place));
  }

  /** Those to show there: beneath a dialog nobody could reach them. */
  at(place: symbol): Toast[] {
    return this.#places.at(-1) === place ? this.list : [];
  }

  info(text: string): void {
    this.#add('info', text);
  }

  /** Tell what went wrong. */
  error(error: unknown): void {
    this.#add('error', messageOf(error));
  }

  dismiss(id: number): void {
    this.list = this.list.filter((toast) => toast.id !== id);
  }

  #add(kind: Toast['kind'], text: string): void {
    if (this.list.some((toast) => toast.text === text)) return;
    const id = ++this.#last;
    this.list = [...this.list.slice(-3), { id, kind, text }];
    setTimeout(() => this.dismiss(id), SECONDS[kind] * 1000);
  }
}

export const toasts = new Toasts();
