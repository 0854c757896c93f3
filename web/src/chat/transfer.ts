import { LENGTHS, REPETITION, SAMPLING, SEED } from './parameters/parameters';
import { UNTITLED } from './titles';
import { branch, newestLeaf, type Messages } from './tree';
import type { AnswerStats, ChatImage, Conversation, Message, Parameters, Setup } from './types';

const FORMAT = 'llamaherd.conversations';
const VERSION = 1;
const LONGEST_TITLE = 200;
/** What a Date can be, in milliseconds. */
const LAST_TIME = 8.64e15;
const NUMBERS = new Set<string>([...LENGTHS, ...SAMPLING, ...REPETITION, SEED].map(({ name }) => name));
const IMAGE = /^data:image\/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]*={0,2}$/;

/** A file that is not what it should be; the message says where, for people. */
export class BadImport extends Error {}

export function toJson(conversations: readonly Conversation[]): string {
  // Whose they are here means nothing elsewhere.
  const exported = conversations.map(({ owner: _, ...rest }) => rest);
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations: exported }, null, 2);
}

/** The branch that is shown, to be read. */
export function toMarkdown({ title, system, messages, leaf }: Conversation): string {
  const parts = [`# ${title}`];
  if (system.trim()) parts.push(`> ${system.trim().replaceAll('\n', '\n> ')}`);
  for (const { role, text, images, stats } of branch(messages, leaf)) {
    parts.push(`## ${role === 'user' ? 'You' : stats?.model || 'Answer'}`);
    parts.push(...images.map(({ name }) => `*Image: ${name}*`));
    if (text) parts.push(text);
  }
  return `${parts.join('\n\n')}\n`;
}

/** A name for a file, of letters that every system takes. */
export function fileName(title: string, suffix: string): string {
  const name = title
    .replace(/[^\p{L}\p{N} ._-]+/gu, ' ')
    .trim()
    .replace(/\s+/g, '-')
    .replace(/^[.-]+/, '');
  return `${Array.from(name).slice(0, 60).join('') || 'chat'}.${suffix}`;
}

/** The conversations in an exported file. Throws BadImport. */
export function fromJson(text: string): Conversation[] {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw new BadImport('The file is not JSON.');
  }
  const file = object(content, 'The file');
  if (file.format !== FORMAT) throw new BadImport('The file was not exported from this page.');
  if (file.version !== VERSION)
    throw new BadImport(`The file has version ${JSON.stringify(file.version)}; this page reads version ${VERSION}.`);
  return list(file.conversations, 'conversations').map((one, at) => conversationOf(one, `conversations[${at}]`));
}

type Fields = Record<string, unknown>;

function conversationOf(value: unknown, at: string): Conversation {
  const fields = object(value, at);
  const messages: Messages = {};
  for (const [id, message] of Object.entries(object(fields.messages, `${at}.messages`))) {
    const name = idOf(id, `A name in ${at}.messages`);
    messages[name] = messageOf(message, name, `${at}.messages.${name}`);
  }
  checkTree(messages, `${at}.messages`);
  const leaf = nullable(string)(fields.leaf, `${at}.leaf`);
  const ids = Object.keys(messages);
  if (leaf !== null && !Object.hasOwn(messages, leaf)) throw new BadImport(`${at}.leaf names no turn.`);
  const pair = nullable(list)(fields.pair ?? null, `${at}.pair`);
  if (pair && (pair.length !== 2 || !pair.every((id) => typeof id === 'string' && Object.hasOwn(messages, id)))) {
    throw new BadImport(`${at}.pair must name two turns.`);
  }
  return {
    id: idOf(fields.id, `${at}.id`),
    title: titleOf(fields.title, `${at}.title`),
    named: fields.named === true,
    created: time(fields.created, `${at}.created`),
    changed: time(fields.changed, `${at}.changed`),
    ...setupOf(fields, at),
    second: nullable((second, where) => setupOf(object(second, where), where))(fields.second ?? null, `${at}.second`),
    pair: pair as [string, string] | null,
    messages,
    leaf: leaf ?? (ids.length ? newestLeaf(messages, rootOf(messages, ids[0]!)) : null),
  };
}

function rootOf(messages: Messages, id: string): string {
  return branch(messages, id)[0]!.id;
}

/** Every turn has the one before it, and none follows itself. */
function checkTree(messages: Messages, at: string): void {
  for (const { id, parent } of Object.values(messages)) {
    if (parent !== null && !Object.hasOwn(messages, parent)) throw new BadImport(`${at}.${id}.parent names no turn.`);
  }
  const rooted = new Set<string>();
  for (const { id } of Object.values(messages)) {
    const path: string[] = [];
    const seen = new Set<string>();
    for (let next: string | null = id; next !== null && !rooted.has(next); next = messages[next]!.parent) {
      if (seen.has(next)) throw new BadImport(`${at}.${id} follows itself.`);
      seen.add(next);
      path.push(next);
    }
    for (const one of path) rooted.add(one);
  }
}

function messageOf(value: unknown, id: string, at: string): Message {
  const fields = object(value, at);
  if (idOf(fields.id, `${at}.id`) !== id) throw new BadImport(`${at}.id is not ${id}.`);
  const role = fields.role;
  if (role !== 'user' && role !== 'assistant') throw new BadImport(`${at}.role must be "user" or "assistant".`);
  return {
    id,
    parent: nullable(string)(fields.parent, `${at}.parent`),
    role,
    text: string(fields.text, `${at}.text`),
    reasoning: string(fields.reasoning ?? '', `${at}.reasoning`),
    images: list(fields.images ?? [], `${at}.images`).map((image, n) => imageOf(image, `${at}.images[${n}]`)),
    at: time(fields.at, `${at}.at`),
    stats: nullable(statsOf)(fields.stats ?? null, `${at}.stats`),
    stopped: fields.stopped === true,
    error: nullable(string)(fields.error ?? null, `${at}.error`),
  };
}

function imageOf(value: unknown, at: string): ChatImage {
  const fields = object(value, at);
  const url = string(fields.url, `${at}.url`);
  if (!IMAGE.test(url)) throw new BadImport(`${at}.url must be an image, as data:image/png;base64,…`);
  return { id: string(fields.id, `${at}.id`), name: string(fields.name, `${at}.name`), url };
}

function setupOf(fields: Fields, at: string): Setup {
  return {
    model: nullable(string)(fields.model ?? null, `${at}.model`),
    personality: nullable(string)(fields.personality ?? null, `${at}.personality`),
    system: string(fields.system ?? '', `${at}.system`),
    parameters: parametersOf(object(fields.parameters ?? {}, `${at}.parameters`), `${at}.parameters`),
  };
}

function parametersOf({ stop, ...numbers }: Fields, at: string): Parameters {
  const parameters: Record<string, number | string[]> = {};
  for (const [name, value] of Object.entries(numbers)) {
    if (!NUMBERS.has(name)) throw new BadImport(`${at} has a parameter that is not known: ${name.slice(0, 40)}.`);
    if (value !== null) parameters[name] = number(value, `${at}.${name}`);
  }
  if (stop !== null && stop !== undefined) {
    parameters.stop = list(stop, `${at}.stop`).map((one, n) => string(one, `${at}.stop[${n}]`));
  }
  return parameters as Parameters;
}

function statsOf(value: unknown, at: string): AnswerStats {
  const fields = object(value, at);
  const maybe = (name: keyof AnswerStats): number | null => nullable(number)(fields[name] ?? null, `${at}.${name}`);
  return {
    model: string(fields.model, `${at}.model`),
    personality: nullable(string)(fields.personality ?? null, `${at}.personality`),
    firstToken: maybe('firstToken'),
    thinking: maybe('thinking'),
    seconds: number(fields.seconds, `${at}.seconds`),
    promptTokens: maybe('promptTokens'),
    cachedTokens: maybe('cachedTokens'),
    completionTokens: maybe('completionTokens'),
    tokensPerSecond: maybe('tokensPerSecond'),
    finishReason: nullable(string)(fields.finishReason ?? null, `${at}.finishReason`),
  };
}

function object(value: unknown, at: string): Fields {
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw new BadImport(`${at} must be an object.`);
  return value as Fields;
}

function list(value: unknown, at: string): unknown[] {
  if (!Array.isArray(value)) throw new BadImport(`${at} must be a list.`);
  return value;
}

function string(value: unknown, at: string): string {
  if (typeof value !== 'string') throw new BadImport(`${at} must be a text.`);
  return value;
}

function number(value: unknown, at: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new BadImport(`${at} must be a number.`);
  return value;
}

function time(value: unknown, at: string): number {
  const milliseconds = number(value, at);
  if (milliseconds < 0 || milliseconds > LAST_TIME) throw new BadImport(`${at} must be milliseconds since 1970.`);
  return milliseconds;
}

function titleOf(value: unknown, at: string): string {
  const title = string(value, at);
  return (title.length > LONGEST_TITLE ? Array.from(title).slice(0, LONGEST_TITLE).join('') : title) || UNTITLED;
}

/** An id is part of addresses, and a name in a record. */
function idOf(value: unknown, at: string): string {
  const id = string(value, at);
  if (!/^[\w-]{1,100}$/.test(id) || id === '__proto__')
    throw new BadImport(`${at} must be letters, digits, "_" or "-".`);
  return id;
}

function nullable<T>(read: (value: unknown, at: string) => T): (value: unknown, at: string) => T | null {
  return (value, at) => (value === null ? null : read(value, at));
}
