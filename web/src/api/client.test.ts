import { expect, test } from 'vitest';

import { events, json, serve } from '../testing/server';
import { apiError, ApiError, Client, isAbort, Unreachable } from './client';

test('the key goes into a header and the body is JSON', async () => {
  let seen: unknown;
  const base = await serve((request, response, body) => {
    seen = [request.method, request.url, request.headers.authorization, request.headers['content-type'], body];
    json(response, { well: true });
  });
  expect(await new Client(base, 'sk-lh-key').post('/admin/x', { a: 1 })).toEqual({ well: true });
  expect(seen).toEqual(['POST', '/admin/x', 'Bearer sk-lh-key', 'application/json', '{"a":1}']);
});

test('an error of the service is thrown with its parts', async () => {
  const base = await serve((_, response) =>
    json(
      response,
      { error: { message: 'No.', type: 'invalid_request_error', param: 'name', code: 'name_taken', mistakes: [1] } },
      400,
      { 'Retry-After': '5' },
    ),
  );
  const error = await new Client(base, null).get('/x').catch((error: unknown) => error);
  expect(error).toBeInstanceOf(ApiError);
  expect(error).toMatchObject({
    message: 'No.',
    status: 400,
    code: 'name_taken',
    param: 'name',
    retryAfter: 5,
    details: { mistakes: [1] },
  });
});

test.each([
  [{ error: 'text' }, 'text'],
  [{ error: { message: 3 } }, 'The service answered 502.'],
  [null, 'The service answered 502.'],
  ['no', 'The service answered 502.'],
])('an error in another form is still one: %j', (body, message) => {
  expect(apiError(502, body).message).toBe(message);
});

test('what is no JSON is told as such', async () => {
  const base = await serve((_, response) => void response.end('<html>'));
  await expect(new Client(base, null).get('/x')).rejects.toThrow('does not answer as llamaherd');
});

test('no answer is Unreachable, a stopped request is not', async () => {
  await expect(new Client('http://127.0.0.1:9', null).get('/x')).rejects.toBeInstanceOf(Unreachable);
  const base = await serve(() => undefined);
  const stop = new AbortController();
  const asked = new Client(base, null).get('/x', stop.signal).catch((error: unknown) => error);
  setTimeout(() => stop.abort(), 20);
  expect(isAbort(await asked)).toBe(true);
});

test('a stream gives events and comments in their order, however they are cut', async () => {
  const base = await serve(async (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    for (const byte of ': loading smol 40%\n\nid: 7\nevent: log\ndata: {"n":\ndata: 1}\n\ndata: [DONE]\n\n') {
      response.write(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  });
  const seen = [];
  for await (const message of new Client(base, null).stream('/x')) seen.push(message);
  expect(seen).toEqual([
    { event: '', data: '', id: null, comment: 'loading smol 40%' },
    { event: 'log', data: '{"n":\n1}', id: '7', comment: null },
    { event: 'message', data: '[DONE]', id: null, comment: null },
  ]);
});

test('a stream that breaks off is Unreachable; whoever stops reading ends the request', async () => {
  let left = false;
  const base = await serve((request, response) => {
    const send = events(response);
    send('a', 1);
    if (request.url === '/broken') setTimeout(() => response.destroy(), 20);
    else response.on('close', () => (left = true));
  });
  const client = new Client(base, null);
  await expect(async () => {
    for await (const _ of client.stream('/broken'));
  }).rejects.toBeInstanceOf(Unreachable);
  for await (const _ of client.stream('/open')) break;
  await expect.poll(() => left).toBe(true);
});
