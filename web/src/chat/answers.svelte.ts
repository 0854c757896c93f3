import { SvelteMap } from 'svelte/reactivity';

import { session } from '../state/session.svelte';
import { Answer, tellsOfSession } from './answer.svelte';
import { conversations } from './conversations.svelte';
import { newId } from './ids';
import type { Message } from './types';

/** The other tabs hear that often that this one still writes; hidden ones have a timer once a minute. Milliseconds. */
const HEARTBEAT = 5000;
const SILENCE = 75_000;

interface OtherTab {
  turns: string[];
  timer: ReturnType<typeof setTimeout>;
}

/** The answers that are on their way, here and in the other tabs. They go on whatever page is shown. */
class Answers {
  /** The last answer that ended, for screen readers. */
  said = $state.raw<{ conversation: string; text: string } | null>(null);

  #running = new SvelteMap<string, Answer>();
  #elsewhere = new SvelteMap<string, OtherTab>();
  #tab = newId();
  #heartbeat: ReturnType<typeof setInterval> | undefined;

  constructor() {
    conversations.isAnswering = (message) => this.#running.has(message);
    conversations.onremoved = (conversation) => this.stop(conversation);
    conversations.onanswering = (tab, turns) => this.#hear(tab, turns);
    conversations.onhello = () => this.#running.size && this.#tell();
    addEventListener('pagehide', () => {
      const running = [...this.#running.values()];
      if (!running.length) return;
      for (const answer of running) answer.apply();
      void conversations.flush();
      // Nobody is there any more to tell once it is written; what reads it waits until it is.
      conversations.tabs.tell({ kind: 'changed', conversations: running.map(({ conversation }) => conversation) });
      conversations.tabs.tell({ kind: 'answering', tab: this.#tab, turns: [] });
    });
  }

  /** The answer that comes into a turn. */
  of(message: string): Answer | undefined {
    return this.#running.get(message);
  }

  in(conversation: string): Answer[] {
    return [...this.#running.values()].filter((answer) => answer.conversation === conversation);
  }

  /** Another tab has the answer to that turn. */
  isElsewhere(message: string): boolean {
    return [...this.#elsewhere.values()].some(({ turns }) => turns.includes(message));
  }

  /** Have a turn (as `conversations.put` gave it) answered by a request. */
  start(conversation: string, message: Message, body: Record<string, unknown>): void {
    const answer = new Answer(conversation, message, {
      ongrown: () => conversations.grown(conversation, message.id),
      onended: (error) => this.#end(answer, error),
    });
    this.#running.set(message.id, answer);
    this.#heartbeat ??= setInterval(() => this.#tell(), HEARTBEAT);
    this.#tell();
    void answer.run(session.client, body);
  }

  stop(conversation: string): void {
    for (const answer of this.in(conversation)) answer.stop();
  }

  #end(answer: Answer, error: unknown): void {
    const { conversation, message } = answer;
    this.#running.delete(message.id);
    if (!this.#running.size) {
      clearInterval(this.#heartbeat);
      this.#heartbeat = undefined;
    }
    if (conversations.messages(conversation)?.[message.id]) {
      conversations.grown(conversation, message.id);
      conversations.change(conversation, { changed: Date.now() });
      this.said = { conversation, text: message.error ?? (message.text || 'The answer is empty.') };
    }
    void conversations.flush();
    this.#tell();
    if (tellsOfSession(error)) void session.check();
  }

  #tell(): void {
    conversations.tabs.tell({ kind: 'answering', tab: this.#tab, turns: [...this.#running.keys()] });
  }

  #hear(tab: string, turns: string[]): void {
    clearTimeout(this.#elsewhere.get(tab)?.timer);
    if (!turns.length) {
      this.#elsewhere.delete(tab);
      return;
    }
    const timer = setTimeout(() => this.#elsewhere.delete(tab), SILENCE);
    this.#elsewhere.set(tab, { turns, timer });
  }
}

export const answers = new Answers();
