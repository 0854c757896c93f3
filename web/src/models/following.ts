import type { ModelLife } from '../api/types';
import { feed } from '../state/feed.svelte';

const PAUSE = 2000; // milliseconds

/**
 * Keep what no event tells (requests in flight, measured memory, when a model goes) right: one reading at a time, and
 * none while nobody sees the page. Returns what ends it.
 */
export function follow(): () => void {
  let wanted = false;
  let resting = false;
  let ended = false;
  let timer: ReturnType<typeof setTimeout> | undefined;

  async function read(): Promise<void> {
    if (!wanted || resting || ended || document.hidden) return;
    wanted = false;
    resting = true;
    const begun = Date.now();
    await feed.refresh();
    timer = setTimeout(
      () => {
        resting = false;
        void read();
      },
      begun + PAUSE - Date.now(),
    );
  }

  const soon = (): void => {
    wanted = true;
    void read();
  };
  const ends = [
    feed.on('request', soon),
    // What it has and who waits is told as it was when the state changed; while it loads more of them come.
    feed.on<ModelLife>('model', ({ state }) => state !== 'starting' && soon()),
    feed.on('sample', () => feed.models.some((model) => model.state !== 'stopped') && soon()),
  ];
  const seen = (): void => void read();
  document.addEventListener('visibilitychange', seen);
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', seen);
    for (const end of ends) end();
  };
}
