import type { Conversation, Head, Message } from './types';

export function turn(id: string, parent: string | null, fields: Partial<Message> = {}): Message {
  return {
    id,
    parent,
    role: 'user',
    text: `text of ${id}`,
    reasoning: '',
    images: [],
    at: 0,
    stats: null,
    stopped: false,
    error: null,
    ...fields,
  };
}

export function head(id: string, fields: Partial<Head> = {}): Head {
  return {
    id,
    title: `title of ${id}`,
    named: false,
    created: 1,
    changed: 1,
    model: 'smol',
    personality: null,
    system: '',
    parameters: {},
    second: null,
    pair: null,
    leaf: null,
    ...fields,
  };
}

/** A question and its answer. */
export function conversation(id: string, fields: Partial<Conversation> = {}): Conversation {
  const question = turn(`${id}-q`, null, { at: 1, text: 'What is a herd?' });
  const answer = turn(`${id}-a`, question.id, { at: 2, role: 'assistant', text: 'Many llamas.' });
  return { ...head(id, { leaf: answer.id }), messages: { [question.id]: question, [answer.id]: answer }, ...fields };
}
