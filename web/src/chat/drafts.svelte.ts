import type { ChatImage } from './types';

const KEPT = 'llamaherd.drafts';

/** What is typed and not sent yet. */
export class Draft {
  text = $state('');
  images = $state<ChatImage[]>([]);

  clear(): void {
    this.text = '';
    this.images = [];
  }
}

/** That of each conversation. A text outlives a reload of the tab. */
class Drafts {
  #drafts = new Map<string, Draft>();

  constructor() {
    for (const [id, text] of Object.entries(kept())) this.of(id).text = text;
    addEventListener('pagehide', () => this.#keep());
  }

  of(conversation: string): Draft {
    const draft = this.#drafts.get(conversation) ?? new Draft();
    this.#drafts.set(conversation, draft);
    return draft;
  }

  #keep(): void {
    const texts = [...this.#drafts].filter(([, { text }]) => text).map(([id, { text }]) => [id, text]);
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(texts)));
    } catch {
      // nothing may be kept here, or no more
    }
  }
}

function kept(): Record<string, string> {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? '{}') as Record<string, string>;
  } catch {
    return {};
  }
}

export const drafts = new Drafts();
