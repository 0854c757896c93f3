import { expect, test } from 'vitest';

import { parsed, pathOf, whyNot, withModel } from './replaying';

function capture(changes: object = {}) {
  const part = { headers: {}, body: '{"model":"smol"}', size: 16, truncated: false };
  return {
    request: { ...part, method: 'POST', path: '/v1/chat/completions?x=1', ...changes },
    answer: { ...part, status: 200, cut_off: false },
  };
}

test('a question to a model can be sent again, to its path without the query', () => {
  expect(whyNot(capture())).toBeNull();
  expect(pathOf(capture())).toBe('/v1/chat/completions');
});

test.each(['/admin/keys', '/v1/chat/completions/../../admin/keys', '//elsewhere/v1/completions', '/loadModel'])(
  '%s is never sent',
  (path) => {
    expect(whyNot(capture({ path }))).toContain('Only requests that ask a model');
  },
);

test('no other method is sent', () => {
  expect(whyNot(capture({ method: 'GET' }))).toContain('GET');
});

test('what was cut off or is no JSON object is not sent', () => {
  expect(whyNot(capture({ truncated: true }))).toContain('too long');
  expect(whyNot(capture({ body: '[1]' }))).toContain('no JSON object');
});

test('a mistake is told without the text around it', () => {
  expect(parsed('{"prompt": secret}')).toMatch(/^That is no valid JSON/);
  expect(parsed('{"prompt": secret}')).not.toContain('secret');
  expect(parsed('{"a":1}')).toEqual({ a: 1 });
});

test('another model is the only change', () => {
  expect(JSON.parse(withModel('{"model":"smol","stop":["a"]}', 'big'))).toEqual({ model: 'big', stop: ['a'] });
  expect(withModel('{broken', 'big')).toBe('{broken');
});
