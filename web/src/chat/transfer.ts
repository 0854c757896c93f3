import { fromForeign } from './foreign/read';
import { LENGTHS, REPETITION, SAMPLING, SEED } from './parameters/parameters';
import {
  BadImport,
  idOf,
  isFields,
  isImage,
  list,
  nullable,
  number,
  object,
  shortTitle,
  string,
  time,
  type Fields,
} from './reading';
import { UNTITLED } from './titles';
import { branch, newestLeaf, type Messages } from './tree';
import type { AnswerStats, ChatImage, Conversation, Message, Parameters, Setup } from './types';

const FORMAT = 'llamaherd.conversations';
const VERSION = 1;
const UNKNOWN_FORM =
  "It has no chats in a form that is known: those are exports of this page, of Open WebUI, of llama.cpp's page, and the " +
  'conversations.json of ChatGPT.';
const NUMBERS = new Set<string>([...LENGTHS, ...SAMPLING, ...REPETITION, SEED].map(({ name }) => name));

export function toJson(conversations: readonly Conversation[]): string {
  // Whose they are here means nothing elsewhere.
  const exported = conversations.map(({ owner: _, ...rest }) => rest);
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations: exported }, null, 2);
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

export interface Imported {
  conversations: Conversation[];
  /** How many parameters were left out, which this page does not know. */
  unknown: number;
}

/** The conversations in a file that was exported here or by another program. Throws BadImport. */
export function fromJson(text: string): Imported {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw new BadImport('The file is not JSON.');
  }
  if (!isFields(content) || content.format !== FORMAT) {
    const conversations = fromForeign(content);
    if (!conversations?.length) throw new BadImport(conversations ? 'Nothing was said in its chats.' : UNKNOWN_FORM);
    return { conversations, unknown: 0 };
  }
  if (content.version !== VERSION)
    throw new BadImport(`The file has version ${JSON.stringify(content.version)}; this page reads version ${VERSION}.`);
  const all = list(content.conversations, 'conversations').map((one, at) => object(one, `conversations[${at}]`));
  return {
    conversations: all.map((one, at) => conversationOf(one, `conversations[${at}]`)),
    unknown: all.reduce((sum, one) => sum + unknownIn(one), 0),
  };
}

/** How many parameters of a conversation, and of the second model in it, are not known here. */
function unknownIn({ parameters, second }: Fields): number {
  const names = isFields(parameters) ? Object.keys(parameters) : [];
  const here = names.filter((name) => name !== 'stop' && !NUMBERS.has(name)).length;
  return here + (isFields(second) ? unknownIn(second) : 0);
}

function conversationOf(fields: Fields, at: string): Conversation {
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
    title: shortTitle(string(fields.title, `${at}.title`)) || UNTITLED,
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
    ...(fields.edited === true ? { edited: true } : {}),
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
  if (!isImage(url)) throw new BadImport(`${at}.url must be an image, as data:image/png;base64,…`);
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
    if (NUMBERS.has(name) && value !== null) parameters[name] = number(value, `${at}.${name}`);
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
