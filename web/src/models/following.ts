import type { ModelLife } from '../api/types';
import { feed } from '../state/feed.svelte';

const PAUSE = 400; // milliseconds

/** Keep what no event tells (requests in flight, measured memory, when a model goes) right. Returns what ends it. */
export function follow(): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const soon = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined;
      void feed.refresh();
    }, PAUSE);
  };
  const ends = [
    feed.on('request', soon),
    // What it has and who waits is told as it was when the state changed; while it loads more of them come.
    feed.on<ModelLife>('model', ({ state }) => state !== 'starting' && soon()),
    feed.on('sample', () => feed.models.some((model) => model.state !== 'stopped') && soon()),
  ];
  return () => {
    clearTimeout(timer);
    for (const end of ends) end();
  };
}
