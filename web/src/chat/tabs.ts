/** What one tab tells the others. */
type News =
  | { kind: 'changed'; conversations: string[] }
  | { kind: 'removed'; conversations: string[] }
  /** All the turns that this tab is writing now. */
  | { kind: 'answering'; tab: string; turns: string[] }
  /** A tab was opened: who writes what? */
  | { kind: 'hello' };

interface Listener {
  onchanged: (conversations: string[]) => void;
  onremoved: (conversations: string[]) => void;
  onanswering: (tab: string, turns: string[]) => void;
  onhello: () => void;
}

/** Keeps the tabs of a browser in step, where it has a BroadcastChannel. */
export class Tabs {
  #channel: BroadcastChannel | null = null;

  constructor(listener: Listener) {
    if (typeof BroadcastChannel === 'undefined') return;
    this.#channel = new BroadcastChannel('llamaherd.conversations');
    this.#channel.onmessage = ({ data }: MessageEvent<News>) => {
      switch (data.kind) {
        case 'changed':
          return listener.onchanged(data.conversations);
        case 'removed':
          return listener.onremoved(data.conversations);
        case 'answering':
          return listener.onanswering(data.tab, data.turns);
        case 'hello':
          return listener.onhello();
      }
    };
  }

  tell(news: News): void {
    this.#channel?.postMessage(news);
  }

  close(): void {
    this.#channel?.close();
    this.#channel = null;
  }
}
