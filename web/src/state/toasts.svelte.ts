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
  #last = 0;

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
