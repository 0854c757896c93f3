/** Something is wrong with where conversations are kept, and what helps. */
export interface Problem {
  text: string;
  help: 'reload' | 'retry' | null;
}

export const BLOCKED: Problem = {
  text: 'Another tab has an older version of this page open. Close it, so that the chats can be read.',
  help: null,
};

export const NEWER: Problem = {
  text: 'A newer version of this page is open in another tab. Reload this one: until then nothing new is kept here.',
  help: 'reload',
};

export const LATE: Problem = {
  text: 'The chats of this browser can be read now. Export what you have written meanwhile, then reload the page.',
  help: 'reload',
};

export const CLOSED: Problem = {
  text: 'The browser has closed the storage of this page. The last changes are on this page only.',
  help: 'retry',
};

/** What an error of the storage means. */
export function problemOf(error: unknown): Problem {
  const name = error instanceof DOMException ? error.name : '';
  if (name === 'QuotaExceededError') {
    return {
      text: 'This browser has no room left for chats: the last changes are on this page only. Delete some chats, or export.',
      help: 'retry',
    };
  }
  if (name === 'InvalidStateError') return CLOSED;
  return { text: 'The browser could not store the last changes. They are on this page only.', help: 'retry' };
}
