import { SvelteMap } from 'svelte/reactivity';

import { session } from '../state/session.svelte';
import { Answer, tellsOfSession } from './answer.svelte';
import { conversations } from './conversations.svelte';
import { newId } from './ids';
import type { AnsweredTurn } from './tabs';
import { turnOf } from './tree';
import type { Message } from './types';

/** The other tabs hear that often that this one still writes; hidden ones have a timer once a minute. Milliseconds. */
const HEARTBEAT = 5000;
const SILENCE = 75_000;

interface OtherTab {
  turns: AnsweredTurn[];
  timer: ReturnType<typeof setTimeout>;
}

/** The answers that are on their way, here and in the other tabs. They go on whatever page is shown. */
class Answers {
  /** How the last answer ended, for screen readers. */
  said = $state.raw<{ conversation: string; text: string } | null>(null);

  #running = new SvelteMap<string, Answer>();
  #elsewhere = new SvelteMap<string, OtherTab>();
  #tab = newId();
  #heartbeat: ReturnType<typeof setInterval> | undefined;

  constructor() {
    conversations.isAnswering = (conversation, message) =>
      message === undefined ? this.in(conversation).length > 0 : this.#running.has(message);
    conversations.onremoved = (conversation) => this.#stopHere(conversation);
    conversations.tabs.on('answering', ({ tab, turns }) => this.#hear(tab, turns));
    conversations.tabs.on('stop', ({ conversation }) => this.#stopHere(conversation));
    conversations.tabs.on('hello', () => this.#running.size && this.#tell());
    addEventListener('pagehide', () => {
      const running = [...this.#running.values()];
      if (!running.length) return;
      for (const answer of running) answer.apply();
      void conversations.flush();
      // Nobody is there any more to tell once it is written; what reads it waits until it is.
      conversations.tabs.tell('changed', { conversations: running.map(({ conversation }) => conversation) });
      conversations.tabs.tell('answering', { tab: this.#tab, turns: [] });
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
    return this.#others().some((turn) => turn.message === message);
  }

  /** Something is being answered in a conversation, here or in another tab: nothing more can be asked in it. */
  isBusy(conversation: string): boolean {
    return this.in(conversation).length > 0 || this.#others().some((turn) => turn.conversation === conversation);
  }

  /** Have a turn (as `conversations.put` gave it) answered by a request. */
  start(conversation: string, message: Message, body: Record<string, unknown>): void {
    const answer = new Answer(conversation, message, {
      ongrown: () => conversations.grown(conversation, message.id),
      onended: (error) => this.#end(answer, error),
    });
    this.said = null;
    this.#running.set(message.id, answer);
    this.#heartbeat ??= setInterval(() => this.#tell(), HEARTBEAT);
    this.#tell();
    void answer.run(session.client, body);
  }

  /** End the answers of a conversation, those of other tabs too. */
  stop(conversation: string): void {
    this.#stopHere(conversation);
    if (this.isBusy(conversation)) conversations.tabs.tell('stop', { conversation });
  }

  /** End all that this tab has asked for. */
  stopAll(): void {
    for (const answer of this.#running.values()) answer.stop();
  }

  #stopHere(conversation: string): void {
    for (const answer of this.in(conversation)) answer.stop();
  }

  #others(): AnsweredTurn[] {
    return [...this.#elsewhere.values()].flatMap(({ turns }) => turns);
  }

  #end(answer: Answer, error: unknown): void {
    const { conversation, message } = answer;
    this.#running.delete(message.id);
    if (!this.#running.size) {
      clearInterval(this.#heartbeat);
      this.#heartbeat = undefined;
    }
    const messages = conversations.messages(conversation);
    if (messages && turnOf(messages, message.id)) {
      conversations.grown(conversation, message.id);
      conversations.change(conversation, { changed: Date.now() });
      this.said = { conversation, text: endingOf(message) };
    }
    void conversations.flush();
    this.#tell();
    if (tellsOfSession(error)) void session.check();
  }

  #tell(): void {
    const turns = [...this.#running.values()].map(({ conversation, message }) => ({
      conversation,
      message: message.id,
    }));
    conversations.tabs.tell('answering', { tab: this.#tab, turns });
  }

  #hear(tab: string, turns: AnsweredTurn[]): void {
    clearTimeout(this.#elsewhere.get(tab)?.timer);
    if (!turns.length) {
      this.#elsewhere.delete(tab);
      return;
    }
    const timer = setTimeout(() => this.#elsewhere.delete(tab), SILENCE);
    this.#elsewhere.set(tab, { turns, timer });
  }
}

function endingOf({ error, stopped, text }: Message): string {
  if (error !== null) return `The answer failed: ${error}`;
  if (stopped) return 'Answer stopped.';
  return text ? 'Answer complete.' : 'The answer is empty.';
}

export const answers = new Answers();
