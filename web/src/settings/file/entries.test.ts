import { expect, test } from 'vitest';

import { changeWords, entryChanges } from './entries';

test('entries are compared by what they say, not by how they are written', () => {
  const changes = entryChanges('{"a": {"x": 1}, "b": {}, "c": {}}', '{\n"a":{"x":1},\n"c": {"y": 2}, "d": {}}');
  expect(changes).toEqual({ added: ['d'], removed: ['b'], changed: ['c'] });
  expect(changeWords(changes)).toBe('Added d. Changed c. Removed b.');
});

test('the schema is no entry', () => {
  expect(changeWords(entryChanges('{}', '{"$schema": "models.schema.json"}'))).toBe('No model has changed.');
});

test('of what is no JSON nothing is told', () => {
  expect(entryChanges('{', '{}')).toBeNull();
});
