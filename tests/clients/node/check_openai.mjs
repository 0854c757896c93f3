// The official client for Node, with Node's own test runner; test_programs.py tells it where the services are.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';

const { HERD_URL, HERD_KEY, HERD_FAULTY_URL, HERD_FAULTY_KEY } = process.env;
const to = { baseURL: `${HERD_URL}/v1`, apiKey: HERD_KEY, maxRetries: 0 };
const client = new OpenAI(to);
const hello = [{ role: 'user', content: 'Name a colour.' }];
const call = [{ role: 'user', content: 'Call get_weather with Rome.' }];
const city = { type: 'object', properties: { city: { enum: ['Paris', 'Rome'] } }, required: ['city'] };
const weather = { name: 'get_weather', description: 'The weather of a city.', parameters: city };

/** A client of the faulty service that tries again, and how often it has sent something. */
function counting() {
  const sent = { count: 0 };
  const counted = (...request) => {
    sent.count += 1;
    return fetch(...request);
  };
  const settings = { baseURL: `${HERD_FAULTY_URL}/v1`, apiKey: HERD_FAULTY_KEY, fetch: counted };
  return [new OpenAI(settings), sent];
}

test('models are listed and retrieved', async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(['smol', 'endless', 'vectors'].every((name) => names.includes(name)));
  assert.equal((await client.models.retrieve('gpt-4o-mini')).object, 'model');
});

test('a chat is answered whole and streamed', async () => {
  const asked = { model: 'smol:exact', messages: hello, temperature: 0, seed: 1, max_tokens: 16 };
  const whole = await client.chat.completions.create(asked);
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  const texts = [];
  let usage;
  const stream = await client.chat.completions.create({
    ...asked,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    texts.push(chunk.choices[0]?.delta.content ?? '');
    usage = chunk.usage ?? usage;
  }
  assert.ok(texts.length > 3);
  assert.equal(texts.join(''), whole.choices[0].message.content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

test('a tool is called by its function, and its result goes into the answer', async () => {
  const given = [];
  const run = client.chat.completions.runTools({
    model: 'smol',
    messages: call,
    temperature: 0,
    max_tokens: 40,
    tools: [
      {
        type: 'function',
        function: { ...weather, parse: JSON.parse, function: (args) => (given.push(args), 'Sunny, 24 degrees.') },
      },
    ],
  });
  assert.ok(await run.finalContent());
  assert.deepEqual(given, [{ city: 'Rome' }]);
});

test('a streamed call adds up to the whole one', async () => {
  const stream = client.chat.completions.stream({
    model: 'smol',
    messages: call,
    temperature: 0,
    tools: [{ type: 'function', function: weather }],
  });
  const [made] = (await stream.finalMessage()).tool_calls;
  assert.equal(made.function.name, 'get_weather');
  assert.deepEqual(JSON.parse(made.function.arguments), { city: 'Rome' });
});

test('an answer fits a schema', async () => {
  const schema = { type: 'object', properties: { bright: { type: 'boolean' } }, required: ['bright'] };
  const answer = await client.chat.completions.parse({
    model: 'smol',
    messages: hello,
    temperature: 0,
    response_format: { type: 'json_schema', json_schema: { name: 'colour', schema, strict: true } },
  });
  assert.equal(typeof answer.choices[0].message.parsed.bright, 'boolean');
});

test('embeddings are made', async () => {
  const made = await client.embeddings.create({ model: 'vectors', input: ['a', 'b'] });
  const [first, second] = made.data.map((item) => item.embedding);
  assert.ok(first.length > 100 && first.length === second.length);
  assert.ok(Math.abs(Math.hypot(...first) - 1) < 1e-3);
  assert.notDeepEqual(first, second);
});

test('a response is answered whole and streamed', async () => {
  const asked = { model: 'smol:exact', input: 'Name a colour.', temperature: 0, max_output_tokens: 16 };
  const whole = await client.responses.create(asked);
  assert.ok(whole.output_text);
  const stream = client.responses.stream(asked);
  const kinds = new Set();
  for await (const event of stream) kinds.add(event.type);
  assert.ok(kinds.has('response.created') && kinds.has('response.output_text.delta'));
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
});

test('errors have their classes', async () => {
  const ask = (model, from = client) => from.chat.completions.create({ model, messages: hello, max_tokens: 1 });
  await assert.rejects(ask('unknown'), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.deepEqual([error.code, error.param], ['model_not_found', 'model']);
    return Boolean(error.requestID);
  });
  await assert.rejects(ask('smol', new OpenAI({ ...to, apiKey: 'sk-lh-wrong' })), OpenAI.AuthenticationError);
  await assert.rejects(
    client.chat.completions.create({ model: 'smol', messages: hello, top_p: 2 }),
    OpenAI.BadRequestError,
  );
});

test('a timeout and an abort free the slot', async () => {
  const endless = { model: 'endless', messages: hello, max_tokens: 2000 };
  const ask = () => client.chat.completions.create({ model: 'endless', messages: hello, max_tokens: 1 });
  await ask();
  await assert.rejects(client.chat.completions.create(endless, { timeout: 300 }), OpenAI.APIConnectionTimeoutError);
  await ask();
  const stream = await client.chat.completions.create({ ...endless, stream: true });
  for await (const _ of stream) break; // which closes it
  const started = performance.now();
  await ask();
  assert.ok(performance.now() - started < 10000); // 2000 tokens would take several times as long
});

test('what may succeed later is tried again when the service says', async () => {
  const [patient, sent] = counting();
  const started = performance.now();
  const answer = await patient.chat.completions.create({ model: 'flaky-node', messages: hello });
  assert.equal(answer.choices[0].message.content, 'Name a colour.');
  assert.equal(sent.count, 2);
  assert.ok(performance.now() - started >= 990); // Retry-After; its own first pause is half of it
});

test('what cannot succeed is not tried again', async () => {
  const [patient, sent] = counting();
  await assert.rejects(
    patient.chat.completions.create({ model: 'broken', messages: hello }),
    (error) => error instanceof OpenAI.InternalServerError && error.code === 'model_load_failed',
  );
  assert.equal(sent.count, 1);
});
