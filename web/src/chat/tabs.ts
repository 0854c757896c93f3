/** A turn that is being answered. */
export interface AnsweredTurn {
  conversation: string;
  message: string;
}

/** What one tab tells the others. */
interface News {
  changed: { conversations: string[] };
  removed: { conversations: string[] };
  /** All the turns that this tab is writing now. */
  answering: { tab: string; turns: AnsweredTurn[] };
  /** Whoever answers in that conversation is to stop. */
  stop: { conversation: string };
  /** A tab was opened: who writes what? */
  hello: object;
}

type Kind = keyof News;

/** Keeps the tabs of a browser in step, where it has a BroadcastChannel. */
export class Tabs {
  #channel: BroadcastChannel | null = null;
  #listeners = new Map<Kind, (news: never) => void>();

  constructor() {
    if (typeof BroadcastChannel === 'undefined') return;
    this.#channel = new BroadcastChannel('llamaherd.conversations');
    this.#channel.onmessage = ({ data }: MessageEvent<{ kind: Kind; news: never }>) =>
      this.#listeners.get(data.kind)?.(data.news);
  }

  /** To be called once for each kind. */
  on<K extends Kind>(kind: K, listener: (news: News[K]) => void): void {
    this.#listeners.set(kind, listener);
  }

  tell<K extends Kind>(kind: K, news: News[K]): void {
    this.#channel?.postMessage({ kind, news });
  }

  close(): void {
    this.#channel?.close();
    this.#channel = null;
  }
}
