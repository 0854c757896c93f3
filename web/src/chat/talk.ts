import { served } from '../state/served.svelte';
import { answers } from './answers.svelte';
import { conversations } from './conversations.svelte';
import { newId } from './ids';
import { keptDefaults } from './parameters/parameters';
import { removeTurns } from './removal';
import { requestOf } from './request';
import { newStats } from './stats';
import { titleOf, UNTITLED } from './titles';
import { branch, leafWithout, newestLeaf, turnOf } from './tree';
import type { AnswerStats, ChatImage, Head, Message, Setup } from './types';

/** A conversation that is not kept yet. Its model is chosen by the picker. */
export function newHead(): Head {
  const now = Date.now();
  return {
    id: newId(),
    title: UNTITLED,
    named: false,
    created: now,
    changed: now,
    model: null,
    personality: null,
    ...keptDefaults(),
    second: null,
    pair: null,
    leaf: null,
  };
}

/** Say something at the end of what is shown, and have it answered. False: something is being answered there. */
export function send(head: Head, text: string, images: ChatImage[]): boolean {
  if (answers.isBusy(head.id)) return false;
  if (!conversations.find(head.id)) conversations.add({ ...head, title: titleOf(text) });
  say(head.id, head.leaf, text, images);
  return true;
}

/** Say something else instead of a turn, on a branch of its own. False: something is being answered there. */
export function edit(conversation: string, message: Message, text: string, images: ChatImage[]): boolean {
  const head = conversations.find(conversation);
  if (!head || answers.isBusy(conversation)) return false;
  if (message.parent === null && !head.named) conversations.change(conversation, { title: titleOf(text) });
  say(conversation, message.parent, text, images);
  return true;
}

/**
 * Have the turn before an answer answered anew, on a branch of its own; by another model where `other` names one. Of two
 * answers side by side, the new one takes its place.
 */
export function regenerate(conversation: string, message: Message, other?: Pick<Setup, 'model' | 'personality'>): void {
  const head = conversations.find(conversation);
  if (!head || message.parent === null || answers.isBusy(conversation)) return;
  const pair = head.pair;
  answer(conversation, message.parent, [{ ...setupOf(head, message), ...other }]);
  conversations.change(conversation, { pair: pairWith(pair, message, head.leaf!) });
}

/** Ask again for an answer that failed; in its place where nothing came of it. */
export function retry(conversation: string, message: Message): void {
  const head = conversations.find(conversation);
  if (!head || message.text || message.reasoning) return regenerate(conversation, message);
  if (answers.isBusy(conversation)) return;
  const setup = setupOf(head, message);
  start(conversation, conversations.put(conversation, { ...message, ...fresh(setup) }), setup);
}

/** Have the model go on with an answer. */
export function proceed(conversation: string, message: Message): void {
  const head = conversations.find(conversation);
  if (!head || answers.isBusy(conversation)) return;
  const setup = { ...setupOf(head, message), ...authorOf(message) };
  message.stopped = false;
  message.error = null;
  message.stats ??= fresh(setup).stats;
  message.stats.finishReason = null;
  start(conversation, message, setup);
}

/** Put another answer beside one, in words of one's own. False: something is being answered there. */
export function rewrite(conversation: string, message: Message, text: string): boolean {
  const head = conversations.find(conversation);
  if (!head || answers.isBusy(conversation)) return false;
  const { stats, ...ended } = fresh({ ...setupOf(head, message), ...authorOf(message) });
  const written: Message = { ...blank('assistant', message.parent), ...ended, text, edited: true };
  // It ends where its writer ended it.
  conversations.put(conversation, { ...written, stats: { ...stats, finishReason: 'stop' } });
  conversations.change(conversation, { leaf: written.id, pair: pairWith(head.pair, message, written.id) });
  return true;
}

/** Go on with one of two answers that stand side by side. */
export function keep(conversation: string, message: Message): void {
  for (const other of answers.in(conversation)) if (other.message.id !== message.id) other.stop();
  conversations.change(conversation, { leaf: message.id, pair: null });
}

/** Show the branch of a turn. */
export function show(conversation: string, message: string): void {
  const messages = conversations.messages(conversation);
  if (messages && turnOf(messages, message))
    conversations.change(conversation, { leaf: newestLeaf(messages, message) });
}

/** Take away a turn and what follows it. Returns what puts it back. */
export function removeTurn(conversation: string, message: string): () => Promise<void> {
  const messages = conversations.messages(conversation);
  const head = conversations.find(conversation);
  if (!messages || !head) return () => Promise.resolve();
  for (const other of answers.in(conversation)) {
    if (branch(messages, other.message.id).some(({ id }) => id === message)) other.stop();
  }
  return removeTurns(conversations, conversation, message, leafWithout(messages, message));
}

/** What is to answer in the place of an answer. */
function setupOf(head: Head, message: Message): Setup {
  const { model, personality, system, parameters } = head.second && head.pair?.[1] === message.id ? head.second : head;
  return { model, personality, system, parameters };
}

/** What has answered, where that is known. */
function authorOf({ stats }: Message): Partial<Setup> {
  return stats?.model ? { model: stats.model, personality: stats.personality } : {};
}

/** Two answers side by side, with another in the place of one of them; null: that was not one of them. */
function pairWith(pair: Head['pair'], message: Message, other: string): Head['pair'] {
  if (pair?.[0] === message.id) return [other, pair[1]];
  return pair?.[1] === message.id ? [pair[0], other] : null;
}

function say(conversation: string, parent: string | null, text: string, images: ChatImage[]): void {
  const head = conversations.find(conversation);
  if (!head) return;
  const { model, personality, system, parameters, second } = head;
  const question: Message = { ...blank('user', parent), text, images };
  conversations.put(conversation, question);
  answer(conversation, question.id, [{ model, personality, system, parameters }, ...(second ? [second] : [])]);
}

/** An answer to a turn from each; two stand side by side. */
function answer(conversation: string, parent: string, setups: Setup[]): void {
  const turns = setups.map((setup) =>
    conversations.put(conversation, { ...blank('assistant', parent), ...fresh(setup) }),
  );
  const [first, second] = turns.map(({ id }) => id);
  const pair: [string, string] | null = second === undefined ? null : [first!, second];
  conversations.change(conversation, { leaf: first, pair, changed: Date.now() });
  turns.forEach((turn, at) => start(conversation, turn, setups[at]!));
}

function start(conversation: string, message: Message, setup: Setup): void {
  const turns = branch(conversations.messages(conversation)!, message.id);
  const takesImages = served.find(setup.model ?? '')?.input_modalities.includes('image') ?? false;
  const body = requestOf(message.text ? turns : turns.slice(0, -1), setup, takesImages);
  answers.start(conversation, message, body);
  conversations.grown(conversation, message.id);
  void conversations.flush();
}

function blank(role: Message['role'], parent: string | null): Message {
  return {
    id: newId(),
    parent,
    role,
    text: '',
    reasoning: '',
    images: [],
    at: Date.now(),
    stats: null,
    stopped: false,
    error: null,
  };
}

/** An answer of which nothing has come. */
function fresh({ model, personality }: Setup): Pick<Message, 'stopped' | 'error'> & { stats: AnswerStats } {
  return { stats: newStats(model ?? '', personality), stopped: false, error: null };
}
