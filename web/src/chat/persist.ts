import { keep, kept } from '../state/kept';

const ASKED = 'llamaherd.persist-asked';

/** Ask the browser, once, to keep what this page stores also where room is short. Some ask the reader in turn. */
export async function askToPersist(): Promise<void> {
  try {
    if (kept(ASKED) !== null || !keep(ASKED, 'yes')) return;
    // Only pages that came over HTTPS, or from this machine, may ask.
    const storage = navigator.storage as StorageManager | undefined;
    if (storage && !(await storage.persisted())) await storage.persist();
  } catch {
    // It is kept as well as without.
  }
}
