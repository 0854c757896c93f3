import { expect, test } from 'vitest';

import { AnswerReader, answerOf, asText, header, pretty } from './answer';

const STREAM = 'text/event-stream; charset=utf-8';
const NDJSON = 'application/x-ndjson';
const events = (...data: unknown[]) =>
  data.map((one) => `data: ${JSON.stringify(one)}\n\n`).join('') + 'data: [DONE]\n\n';
const delta = (change: object) => ({ choices: [{ index: 0, delta: change }] });

test('the deltas of a chat are put together', () => {
  const body = events(
    delta({ role: 'assistant', content: null }),
    delta({ reasoning_content: 'Let me ' }),
    delta({ reasoning_content: 'see.' }),
    delta({ content: 'Hel' }),
    delta({ content: 'lo' }),
    { choices: [], usage: {} },
  );
  expect(answerOf(body, STREAM)).toEqual({ text: 'Hello', reasoning: 'Let me see.', tools: [], error: null });
});

test('calls of tools are put together by their index', () => {
  const call = (index: number, called: object) => delta({ tool_calls: [{ index, function: called }] });
  const body = events(
    call(0, { name: 'add', arguments: '{"a"' }),
    call(1, { name: 'now', arguments: '{}' }),
    call(0, { arguments: ':1}' }),
  );
  expect(answerOf(body, STREAM).tools).toEqual([
    { name: 'add', arguments: '{"a":1}' },
    { name: 'now', arguments: '{}' },
  ]);
});

test('of several choices the first is read', () => {
  const body = JSON.stringify({
    choices: [
      { index: 0, message: { content: 'one' } },
      { index: 1, message: { content: 'two' } },
    ],
  });
  expect(answerOf(body, 'application/json').text).toBe('one');
});

test('a text completion, as a stream and whole', () => {
  expect(answerOf(events({ choices: [{ text: 'a' }] }, { choices: [{ text: 'b' }] }), STREAM).text).toBe('ab');
  expect(answerOf('{"choices":[{"text":"ab","index":0}]}', '').text).toBe('ab');
});

test('an answer of /v1/responses, as a stream and whole', () => {
  const body = events(
    { type: 'response.created', response: { output: [] } },
    { type: 'response.output_item.added', item: { type: 'function_call', id: 'f', name: 'add' } },
    { type: 'response.function_call_arguments.delta', item_id: 'f', delta: '{}' },
    { type: 'response.reasoning_text.delta', delta: 'Hm' },
    { type: 'response.output_text.delta', delta: 'Hel' },
    { type: 'response.output_text.delta', delta: 'lo' },
    { type: 'response.output_text.done', text: 'Hello' },
    { type: 'response.completed', response: { output: [{ type: 'message', content: [{ text: 'Hello' }] }] } },
  );
  const answer = { text: 'Hello', reasoning: 'Hm', tools: [{ name: 'add', arguments: '{}' }], error: null };
  expect(answerOf(body, STREAM)).toEqual(answer);
  const output = [
    { type: 'reasoning', content: [{ text: 'Hm' }] },
    { type: 'function_call', id: 'f', name: 'add', arguments: '{}' },
    { type: 'message', content: [{ type: 'output_text', text: 'Hello' }] },
  ];
  expect(answerOf(JSON.stringify({ output }), 'application/json')).toEqual(answer);
});

test('an answer of /v1/messages, as a stream and whole', () => {
  const body = events(
    { type: 'message_start', message: { role: 'assistant', content: [] } },
    { type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'Hm' } },
    { type: 'content_block_start', index: 1, content_block: { type: 'text', text: '' } },
    { type: 'content_block_delta', index: 1, delta: { type: 'text_delta', text: 'Hello' } },
    { type: 'content_block_start', index: 2, content_block: { type: 'tool_use', name: 'add', input: {} } },
    { type: 'content_block_delta', index: 2, delta: { type: 'input_json_delta', partial_json: '{"a":1}' } },
    { type: 'message_stop' },
  );
  const answer = { text: 'Hello', reasoning: 'Hm', tools: [{ name: 'add', arguments: '{"a":1}' }], error: null };
  expect(answerOf(body, STREAM)).toEqual(answer);
  const content = [
    { type: 'thinking', thinking: 'Hm' },
    { type: 'text', text: 'Hello' },
    { type: 'tool_use', name: 'add', input: { a: 1 } },
  ];
  expect(answerOf(JSON.stringify({ type: 'message', content }), 'application/json')).toEqual(answer);
});

test('lines of Ollama', () => {
  const chat = '{"message":{"content":"Hel"}}\n{"message":{"thinking":"Hm","content":"lo"},"done":true}';
  expect(answerOf(chat, NDJSON)).toMatchObject({ text: 'Hello', reasoning: 'Hm' });
  expect(answerOf('{"response":"a"}\n{"response":"b"}\n', NDJSON).text).toBe('ab');
});

test('an error is told, alone and at the end of a stream', () => {
  expect(answerOf('{"error":{"message":"No room."}}', 'application/json').error).toBe('No room.');
  const body = events(delta({ content: 'Hel' }), { error: { message: 'It was cancelled.' } });
  expect(answerOf(body, STREAM)).toMatchObject({ text: 'Hel', error: 'It was cancelled.' });
});

test('what is cut off in the middle counts as far as it is whole', () => {
  const body = events(delta({ content: 'Hel' }), delta({ content: 'lo' }));
  expect(answerOf(body.slice(0, -30), STREAM).text).toBe('Hel');
  expect(answerOf('{"choices":[{"mess', 'application/json')).toEqual({
    text: '',
    reasoning: '',
    tools: [],
    error: null,
  });
});

test('pieces may end anywhere', () => {
  const body = events(delta({ content: 'Grüße' }), delta({ content: ' an alle' }));
  const reader = new AnswerReader(STREAM);
  for (const character of body) reader.feed(character);
  reader.end();
  expect(reader.answer.text).toBe('Grüße an alle');
});

test('as one text: reasoning, text, calls, error', () => {
  const answer = { text: 'a', reasoning: 'r', tools: [{ name: 'f', arguments: '{}' }], error: 'e' };
  expect(asText(answer)).toBe('r\n\na\n\nf({})\n\ne');
});

test('JSON is made readable, anything else stays', () => {
  expect(pretty('{"a":[1]}')).toBe('{\n  "a": [\n    1\n  ]\n}');
  expect(pretty('{"a"')).toBe('{"a"');
});

test('names of headers are found in any case', () => {
  expect(header({ 'Content-Type': 'x' }, 'content-type')).toBe('x');
  expect(header({}, 'content-type')).toBe('');
});
