import { feed, type Snapshot } from './feed.svelte';

/** Whether the service keeps what requests and answers say: whoever watches it is to know on every page. */
class Capturing {
  on = $state(false);

  /** As the feed tells, until the returned function is called. */
  follow(): () => void {
    const ends = [
      feed.on<Snapshot>('snapshot', ({ capture }) => (this.on = capture.enabled)),
      feed.on<Snapshot['capture']>('capture', ({ enabled }) => (this.on = enabled)),
    ];
    return () => {
      for (const end of ends) end();
      this.on = false;
    };
  }
}

export const capturing = new Capturing();
