import { createParser } from 'eventsource-parser';

import { apiError } from '../api/client';

/** What a model said, put together out of an answer in any of the APIs. */
export interface Answer {
  text: string;
  reasoning: string;
  tools: { name: string; arguments: string }[];
  /** In words, where the answer is or ends with an error. */
  error: string | null;
}

type Json = Record<string, unknown>;

/** Takes the body of an answer in pieces. */
export class AnswerReader {
  #answer: Answer = { text: '', reasoning: '', tools: [], error: null };
  #tools = new Map<string, { name: string; arguments: string }>();
  #take: (piece: string) => void;
  #end: () => void = () => undefined;

  /** `type`: the Content-Type of the answer; without one it is JSON. */
  constructor(type: string) {
    if (type.includes('event-stream')) {
      const parser = createParser({ onEvent: ({ data }) => this.#line(data) });
      this.#take = (piece) => parser.feed(piece);
    } else if (type.includes('ndjson')) {
      let rest = '';
      this.#take = (piece) => {
        const lines = (rest + piece).split('\n');
        rest = lines.pop()!;
        for (const line of lines) this.#line(line);
      };
      this.#end = () => this.#line(rest);
    } else {
      let body = '';
      this.#take = (piece) => (body += piece);
      this.#end = () => this.#line(body);
    }
  }

  feed(piece: string): void {
    this.#take(piece);
  }

  end(): void {
    this.#end();
  }

  /** A copy, as far as it has come. */
  get answer(): Answer {
    return { ...this.#answer, tools: [...this.#tools.values()].map((tool) => ({ ...tool })) };
  }

  #line(text: string): void {
    let data: unknown;
    try {
      data = JSON.parse(text);
    } catch {
      return; // [DONE], or cut off
    }
    if (isObject(data)) this.#object(data);
  }

  #object(data: Json): void {
    const type = typeof data.type === 'string' ? data.type : '';
    if (data.error) this.#answer.error = apiError(0, data).message;
    else if (type === 'error' && typeof data.message === 'string') this.#answer.error = data.message;
    if (type.startsWith('response.')) this.#responsesEvent(type, data);
    else if (type.startsWith('content_block_')) this.#messagesEvent(type, data);
    else this.#whole(data);
  }

  /** Chat and text completions (chunks have `delta`), Ollama, and answers of the others that come in one piece. */
  #whole(data: Json): void {
    for (const choice of list(data.choices)) {
      if (choice.index !== undefined && choice.index !== 0) continue; // one answer is enough to read
      this.#message(choice.delta ?? choice.message);
      this.#text(choice.text);
    }
    this.#message(data.message);
    this.#text(data.response);
    if (!data.choices) this.#blocks(data.content);
    for (const item of list(data.output)) this.#item(item);
  }

  #message(message: unknown): void {
    if (!isObject(message)) return;
    this.#text(message.content);
    this.#reasoning(message.reasoning_content ?? message.thinking);
    for (const [at, call] of list(message.tool_calls).entries()) {
      const called = isObject(call.function) ? call.function : {};
      this.#tool(String(call.index ?? at), called.name, called.arguments);
    }
  }

  /** The content of an answer of /v1/messages, or of /infill and the like, where it is a text. */
  #blocks(content: unknown): void {
    this.#text(content);
    for (const [at, block] of list(content).entries()) this.#block(at, block);
  }

  #block(at: number, block: Json): void {
    if (block.type === 'text') this.#text(block.text);
    if (block.type === 'thinking') this.#reasoning(block.thinking);
    if (block.type === 'tool_use') this.#tool(String(at), block.name, isEmptyObject(block.input) ? '' : block.input);
  }

  #messagesEvent(type: string, data: Json): void {
    const at = typeof data.index === 'number' ? data.index : 0;
    if (type === 'content_block_start' && isObject(data.content_block)) this.#block(at, data.content_block);
    if (type !== 'content_block_delta' || !isObject(data.delta)) return;
    this.#text(data.delta.text);
    this.#reasoning(data.delta.thinking);
    if (data.delta.type === 'input_json_delta') this.#tool(String(at), undefined, data.delta.partial_json);
  }

  #responsesEvent(type: string, data: Json): void {
    if (type === 'response.output_text.delta') this.#text(data.delta);
    if (type === 'response.reasoning_text.delta' || type === 'response.reasoning_summary_text.delta') {
      this.#reasoning(data.delta);
    }
    if (type === 'response.function_call_arguments.delta') this.#tool(String(data.item_id), undefined, data.delta);
    if (type === 'response.output_item.added' && isObject(data.item) && data.item.type === 'function_call') {
      this.#tool(String(data.item.id), data.item.name, '');
    }
    if (type === 'response.failed' && isObject(data.response) && data.response.error) {
      this.#answer.error = apiError(0, data.response).message;
    }
  }

  /** One of the `output` of /v1/responses. */
  #item(item: Json): void {
    if (item.type === 'function_call') this.#tool(String(item.id ?? item.call_id), item.name, item.arguments);
    for (const part of [...list(item.content), ...list(item.summary)]) {
      if (item.type === 'reasoning') this.#reasoning(part.text);
      else this.#text(part.text);
    }
  }

  #text(piece: unknown): void {
    if (typeof piece === 'string') this.#answer.text += piece;
  }

  #reasoning(piece: unknown): void {
    if (typeof piece === 'string') this.#answer.reasoning += piece;
  }

  #tool(id: string, name: unknown, given: unknown): void {
    const tool = this.#tools.get(id) ?? { name: '', arguments: '' };
    this.#tools.set(id, tool);
    if (typeof name === 'string') tool.name += name;
    if (typeof given === 'string') tool.arguments += given;
    else if (given !== undefined) tool.arguments += JSON.stringify(given);
  }
}

/** What a whole body says. */
export function answerOf(body: string, type: string): Answer {
  const reader = new AnswerReader(type);
  reader.feed(body);
  reader.end();
  return reader.answer;
}

/** All of an answer as one text: to copy it, and to compare it with another. */
export function asText({ text, reasoning, tools, error }: Answer): string {
  const called = tools.map((tool) => `${tool.name}(${tool.arguments})`).join('\n');
  return [reasoning, text, called, error ?? ''].filter(Boolean).join('\n\n');
}

/** JSON with line breaks; anything else as it is. */
export function pretty(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

/** The value of a header, whatever the case of its name; empty where it is not there. */
export function header(headers: Record<string, string>, name: string): string {
  return Object.entries(headers).find(([known]) => known.toLowerCase() === name)?.[1] ?? '';
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isEmptyObject(value: unknown): boolean {
  return isObject(value) && Object.keys(value).length === 0;
}

function list(value: unknown): Json[] {
  return Array.isArray(value) ? value.filter(isObject) : [];
}
