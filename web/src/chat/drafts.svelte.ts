import { presentOwner } from './owner';
import type { ChatImage } from './types';

const KEPT = 'llamaherd.drafts';

interface Kept {
  /** Whose they are: an Owner, as JSON. */
  owner: string;
  texts: Record<string, string>;
}

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
  /** That of the last who was signed in. */
  #owner = owner();

  constructor() {
    for (const [id, text] of Object.entries(kept())) this.of(id).text = text;
    // A page may be gone without another word once it is hidden.
    addEventListener('pagehide', () => this.#keep());
    document.addEventListener('visibilitychange', () => document.hidden && this.#keep());
  }

  of(conversation: string): Draft {
    const draft = this.#drafts.get(conversation) ?? new Draft();
    this.#drafts.set(conversation, draft);
    return draft;
  }

  /** Forget all that was typed. */
  clear(): void {
    for (const draft of this.#drafts.values()) draft.clear();
    this.#keep();
  }

  #keep(): void {
    const texts = [...this.#drafts].filter(([, { text }]) => text).map(([id, { text }]) => [id, text]);
    if (presentOwner()) this.#owner = owner();
    try {
      if (texts.length) {
        const drafts: Kept = { owner: this.#owner, texts: Object.fromEntries(texts) as Record<string, string> };
        sessionStorage.setItem(KEPT, JSON.stringify(drafts));
      } else {
        sessionStorage.removeItem(KEPT);
      }
    } catch {
      // nothing may be kept here, or no more
    }
  }
}

function kept(): Record<string, string> {
  try {
    const drafts = JSON.parse(sessionStorage.getItem(KEPT) ?? '') as Kept;
    return drafts.owner === owner() ? drafts.texts : {};
  } catch {
    return {};
  }
}

function owner(): string {
  return JSON.stringify(presentOwner());
}

export const drafts = new Drafts();
