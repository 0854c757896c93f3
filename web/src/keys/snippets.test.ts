import { expect, test } from 'vitest';

import { snippets } from './snippets';

const [curl, python] = snippets('https://box:8443', 'sk-lh-abc', "it's/a:model");

test('the key is in a header, never in the address', () => {
  expect(curl!.text).toContain('-H "Authorization: Bearer sk-lh-abc"');
  expect(curl!.text.split('\n')[0]).toBe('curl https://box:8443/v1/chat/completions \\');
});

test('a quote in a name does not end the word of the shell', () => {
  expect(curl!.text).toContain(`-d '{"model":"it'\\''s/a:model",`);
});

test('openai-python gets the base URL with /v1', () => {
  expect(python!.text).toContain('OpenAI(base_url="https://box:8443/v1", api_key="sk-lh-abc")');
  expect(python!.text).toContain(`model="it's/a:model"`);
});

test('without keys there is no header, and the library gets a word in its place', () => {
  const [curl, python] = snippets('http://localhost:8000', null, 'smol');
  expect(curl!.text).not.toContain('Authorization');
  expect(python!.text).toContain('api_key="none"');
});
