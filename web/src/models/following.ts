import type { ModelLife } from '../api/types';
import { feed } from '../state/feed.svelte';

const PAUSE = 2000; // milliseconds

/**
 * Keep what no event tells (requests in flight, measured memory, when a model goes) right: one reading at a time, and
 * none while nobody sees the page. Returns what ends it.
 */
export function follow(): () => void {
  let wanted = false;
  let reading = false;
  let resting = false;
  let ended = false;
  let timer: ReturnType<typeof setTimeout> | undefined;

  async function read(): Promise<void> {
    if (!wanted || reading || resting || ended || document.hidden) return;
    wanted = false;
    reading = resting = true;
    timer = setTimeout(rested, PAUSE);
    await feed.refresh();
    reading = false;
    void read();
  }

  function rested(): void {
    resting = false;
    void read();
  }

  const soon = (): void => {
    wanted = true;
    void read();
  };
  /** Whoever waited for the load is let in: nobody is to see it wait any longer. */
  const now = (): void => {
    clearTimeout(timer);
    resting = false;
    soon();
  };
  const ends = [
    feed.on('request', soon),
    // What it has and who waits is told as it was when the state changed; while it loads more of them come.
    feed.on<ModelLife>('model', ({ state }) => {
      if (state === 'ready') now();
      else if (state !== 'starting') soon();
    }),
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
