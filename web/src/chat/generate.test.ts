import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import { afterEach, describe, expect, it } from 'vitest';

import { ApiError, Client, Unreachable } from '../api/client';
import { generate, type Listener } from './generate';

let server: Server;
let asked: { body: unknown; key: string | undefined }[] = [];

/** A client of a service that answers so. */
async function service(answer: (response: ServerResponse) => void): Promise<Client> {
  asked = [];
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (part: Buffer) => (body += part.toString()));
    request.on('end', () => {
      asked.push({ body: JSON.parse(body), key: request.headers.authorization });
      answer(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return new Client(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, 'sk-test');
}

afterEach(() => {
  server.closeAllConnections();
  server.close();
});

const stream = { 'Content-Type': 'text/event-stream', 'Access-Control-Allow-Origin': '*' };
const data = (chunk: unknown): string => `data: ${JSON.stringify(chunk)}\n\n`;
const delta = (fields: object): string => data({ choices: [{ delta: fields, finish_reason: null }] });
const end = data({ choices: [{ delta: {}, finish_reason: 'stop' }] });

/** Writes down what it hears. */
function listener(heard: string[], onheard: () => void = () => undefined): Listener {
  const note = (line: string): void => {
    heard.push(line);
    onheard();
  };
  return {
    ontext: (text) => note(`text ${text}`),
    onreasoning: (text) => note(`reasoning ${text}`),
    onloading: (progress) => note(`loading ${progress}`),
    onwaiting: () => note('waiting'),
  };
}

async function hear(client: Client, heard: string[] = []): ReturnType<typeof generate> {
  return generate(client, { model: 'smol' }, new AbortController().signal, listener(heard));
}

describe('generate', () => {
  it('tells of the load, the thoughts, the text and how it ended', async () => {
    const client = await service((response) => {
      response.writeHead(200, stream);
      response.write(': loading smol 40%\n\n: loading smol\n\n: waiting for the model\n\n');
      response.write(delta({ role: 'assistant', content: null }) + delta({ reasoning_content: 'Hm' }));
      response.write(delta({ content: 'Höl' }) + delta({ content: '🦙' }) + end);
      response.write(
        data({
          choices: [],
          usage: { prompt_tokens: 10, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } },
          timings: { predicted_per_second: 89.5 },
        }),
      );
      response.end('data: [DONE]\n\n');
    });
    const heard: string[] = [];
    expect(await hear(client, heard)).toEqual({
      finishReason: 'stop',
      promptTokens: 10,
      cachedTokens: 4,
      completionTokens: 3,
      tokensPerSecond: 89.5,
    });
    expect(heard).toEqual(['loading 0.4', 'loading null', 'waiting', 'reasoning Hm', 'text Höl', 'text 🦙']);
    expect(asked).toEqual([{ body: { model: 'smol' }, key: 'Bearer sk-test' }]);
  });

  it('throws the error of an answer that never began', async () => {
    const client = await service((response) => {
      response.writeHead(503, { 'Content-Type': 'application/json', 'Access-Control-Allow-Origin': '*' });
      response.end(JSON.stringify({ error: { message: 'It does not fit.', code: 'insufficient_memory' } }));
    });
    await expect(hear(client)).rejects.toMatchObject({ message: 'It does not fit.', code: 'insufficient_memory' });
  });

  it.each([
    [['<think>a</think>b'], ['a', 'b']],
    [
      ['\n<th', 'ink>\nI th', 'ink </thi', 's> so\n</thi', 'nk>\n', '\nYes', ' <think>'],
      ['I think </this> so', 'Yes <think>'],
    ],
    [['<think>\n\n</think>\n\nYes'], ['', 'Yes']],
    [['<think>unfinished </th'], ['unfinished </th', '']],
    [
      ['<thin', 'g>'],
      ['', '<thing>'],
    ],
    [[' <thi'], ['', ' <thi']],
    [['A <think>b</think>'], ['', 'A <think>b</think>']],
  ])('takes the thoughts out of %j', async (pieces, expected) => {
    const client = await service((response) => {
      response.writeHead(200, stream);
      for (const content of pieces) response.write(delta({ content }));
      response.end(end);
    });
    const heard: string[] = [];
    await hear(client, heard);
    const said = (kind: string): string =>
      heard.map((line) => (line.startsWith(`${kind} `) ? line.slice(kind.length + 1) : '')).join('');
    expect([said('reasoning'), said('text')]).toEqual(expected);
  });

  it('takes none out of an answer that goes on', async () => {
    const client = await service((response) => {
      response.writeHead(200, stream);
      response.end(delta({ content: '<think>' }) + end);
    });
    const heard: string[] = [];
    const body = { messages: [{ role: 'assistant', content: 'It begins with ' }] };
    await generate(client, body, new AbortController().signal, listener(heard));
    expect(heard).toEqual(['text <think>']);
  });

  it('says of a conversation that is too long how long it is', async () => {
    const client = await service((response) => {
      response.writeHead(400, { 'Content-Type': 'application/json', 'Access-Control-Allow-Origin': '*' });
      const message = 'request (2510 tokens) exceeds the available context size (2048 tokens), try increasing it';
      response.end(JSON.stringify({ error: { message, code: 'context_length_exceeded' } }));
    });
    await expect(hear(client)).rejects.toMatchObject({
      message: "The conversation is longer than the model's context (2,510 of 2,048 tokens).",
      status: 400,
    });
  });

  it('throws an error within the stream, after what came before it', async () => {
    const client = await service((response) => {
      response.writeHead(200, stream);
      response.end(
        delta({ content: 'So far' }) + data({ error: { message: 'It fell over.', code: 'upstream_closed' } }),
      );
    });
    const heard: string[] = [];
    const failure: unknown = await hear(client, heard).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ApiError);
    expect(failure).toMatchObject({ message: 'It fell over.', code: 'upstream_closed' });
    expect(heard).toEqual(['text So far']);
  });

  it('throws where the stream ends before the answer does', async () => {
    const client = await service((response) => {
      response.writeHead(200, stream);
      response.end(delta({ content: 'So far' }));
    });
    await expect(hear(client)).rejects.toThrow('broke off');
  });

  it('throws Unreachable where the connection breaks', async () => {
    const client = await service((response) => {
      response.writeHead(200, stream);
      response.write(delta({ content: 'So far' }), () => response.destroy());
    });
    await expect(hear(client)).rejects.toBeInstanceOf(Unreachable);
  });

  it('ends the request when it is stopped', async () => {
    let closed: () => void;
    const left = new Promise<void>((resolve) => (closed = resolve));
    const client = await service((response) => {
      response.on('close', () => closed());
      response.writeHead(200, stream);
      response.write(delta({ content: 'Going on' }));
    });
    const abort = new AbortController();
    const heard: string[] = [];
    const answer = generate(
      client,
      {},
      abort.signal,
      listener(heard, () => abort.abort()),
    );
    await expect(answer).rejects.toMatchObject({ name: 'AbortError' });
    await left;
    expect(heard).toEqual(['text Going on']);
  });
});
