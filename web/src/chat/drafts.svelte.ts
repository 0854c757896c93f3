import { SvelteMap } from 'svelte/reactivity';

import { keepDrafts, keptDrafts, type KeptDraft, type KeptEdit } from './kept-drafts';
import { presentOwner } from './owner';
import type { ChatImage, Message } from './types';

/** A turn that is being edited. */
export class Edit {
  text = $state('');

  constructor(
    readonly message: string,
    /** What the turn says. */
    readonly original: string,
    text = original,
  ) {
    this.text = text;
  }

  get changed(): boolean {
    return this.text !== this.original;
  }
}

/** What is typed in a conversation and not sent yet. */
export class Draft {
  text = $state('');
  images = $state<ChatImage[]>([]);
  /** The turns that are being edited, by their ids. */
  readonly edits = new SvelteMap<string, Edit>();

  clear(): void {
    this.text = '';
    this.images = [];
  }

  /** Begin to edit a turn, or go on with it. */
  edit({ id, text }: Message): void {
    if (!this.edits.has(id)) this.edits.set(id, new Edit(id, text));
  }
}

type Content = Pick<KeptDraft, 'text' | 'edits'>;

/** What is typed in each conversation. The texts outlive the tab; what another tab keeps changes nothing here. */
export class Drafts {
  #drafts = new Map<string, Draft>();
  /** What is kept of each, as JSON: what is other than that was typed here. */
  #kept = new Map<string, string>();
  /** Whose they are, as JSON. */
  #owner = '';

  constructor() {
    // A page may be gone without another word once it is hidden.
    addEventListener('pagehide', () => this.keep());
    document.addEventListener('visibilitychange', () => document.hidden && this.keep());
  }

  of(conversation: string): Draft {
    const there = this.#drafts.get(conversation);
    if (there) return there;
    const draft = new Draft();
    this.#drafts.set(conversation, draft);
    this.#owner ||= owner();
    const kept = keptDrafts().find((one) => one.owner === owner() && one.conversation === conversation);
    if (kept) fill(draft, kept);
    this.#kept.set(conversation, JSON.stringify(contentOf(draft)));
    return draft;
  }

  /** Forget all that was typed. */
  clear(): void {
    for (const [conversation, draft] of this.#drafts) {
      draft.clear();
      draft.edits.clear();
      this.#kept.set(conversation, JSON.stringify(contentOf(draft)));
    }
    keepDrafts([], () => true);
  }

  /** A conversation was deleted: nothing of it is kept. On the page it stays, should the chat come back. */
  forget(conversation: string): void {
    keepDrafts([], (one) => one.conversation === conversation);
    this.#kept.set(conversation, JSON.stringify(contentOf(this.of(conversation))));
  }

  /** Write what was typed here since. */
  keep(): void {
    const former = this.#owner;
    if (presentOwner()) this.#owner = owner();
    const changed = new Map<string, Content>();
    for (const [conversation, draft] of this.#drafts) {
      const content = contentOf(draft);
      // Whoever signed in after a key was refused has what was typed before.
      const moved = former !== this.#owner && !isEmpty(content);
      if (moved || this.#kept.get(conversation) !== JSON.stringify(content)) changed.set(conversation, content);
    }
    if (!changed.size) return;
    const at = Date.now();
    const drafts = [...changed].map(([conversation, content]) => ({
      owner: this.#owner,
      conversation,
      ...content,
      at,
    }));
    keepDrafts(
      drafts.filter((draft) => !isEmpty(draft)),
      (one) => changed.has(one.conversation) && (one.owner === former || one.owner === this.#owner),
    );
    for (const [conversation, content] of changed) this.#kept.set(conversation, JSON.stringify(content));
  }
}

function fill(draft: Draft, { text, edits }: Content): void {
  draft.text = text;
  for (const edit of edits) draft.edits.set(edit.message, new Edit(edit.message, edit.original, edit.text));
}

/** Images are too large to be kept; an editor in which nothing was changed is not worth it. */
function contentOf({ text, edits }: Draft): Content {
  const changed = [...edits.values()].filter((edit) => edit.changed);
  return { text, edits: changed.map(({ message, original, text }): KeptEdit => ({ message, original, text })) };
}

function isEmpty({ text, edits }: Content): boolean {
  return !text && !edits.length;
}

function owner(): string {
  return JSON.stringify(presentOwner());
}

export const drafts = new Drafts();
