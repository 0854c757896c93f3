import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import { choicesAt, fieldAt, fieldsAt, type Schema } from './schema';

const schema: Schema = {
  properties: { $schema: { type: 'string' } },
  additionalProperties: {
    if: { properties: { engine: { const: 'hf' } }, required: ['engine'] },
    then: { $ref: '#/$defs/Hf' },
    else: { $ref: '#/$defs/Llama' },
  },
  $defs: {
    Hf: { type: 'object', properties: { engine: { const: 'hf' }, dtype: { enum: ['auto', 'float16'] } } },
    Llama: {
      type: 'object',
      required: ['params'],
      properties: {
        params: { $ref: '#/$defs/Params', description: 'How it runs.' },
        aliases: { type: 'array', items: { type: 'string' }, default: [] },
        pinned: { anyOf: [{ type: 'boolean' }, { type: 'null' }], default: null, description: 'Stays loaded.' },
      },
    },
    Params: { type: 'object', properties: { ctx_size: { type: 'integer', description: 'In tokens.' } } },
  },
};

function names(path: string[], value: unknown): string[] {
  return fieldsAt(schema, path, value).map(({ name }) => name);
}

test('an entry has the fields of its engine', () => {
  expect(names(['a'], { a: {} })).toEqual(['params', 'aliases', 'pinned']);
  expect(names(['a'], { a: { engine: 'hf' } })).toEqual(['engine', 'dtype']);
});

test('references are followed', () => {
  expect(fieldAt(schema, ['a', 'params', 'ctx_size'], { a: { params: {} } })).toMatchObject({
    description: 'In tokens.',
    type: 'integer',
  });
});

test('a field tells its types, its default, and whether it is needed', () => {
  expect(fieldAt(schema, ['a', 'pinned'], {})).toEqual({
    name: 'pinned',
    description: 'Stays loaded.',
    type: 'boolean | null',
    byItself: null,
    required: false,
  });
  expect(fieldAt(schema, ['a', 'params'], {})).toMatchObject({ required: true, description: 'How it runs.' });
});

test('values that can be listed are', () => {
  expect(choicesAt(schema, ['a', 'pinned'], {}).map(({ value }) => value)).toEqual([true, false, null]);
  expect(choicesAt(schema, ['a', 'dtype'], { a: { engine: 'hf' } }).map(({ value }) => value)).toEqual([
    'auto',
    'float16',
  ]);
});

test('what nobody knows is nothing', () => {
  expect(fieldAt(schema, ['a', 'nonsense'], {})).toBeNull();
  expect(fieldsAt(schema, ['a', 'aliases', 0, 'x'], {})).toEqual([]);
});

test('the schema of the service is understood', () => {
  const own = JSON.parse(readFileSync('../data/models.schema.json', 'utf-8')) as Schema;
  const known = fieldsAt(own, ['a', 'params'], { a: { params: {} } }).map(({ name }) => name);
  expect(known).toContain('model');
  expect(known).toContain('temperature');
  expect(fieldAt(own, ['a', 'request'], {})?.description).not.toBe('');
  expect(fieldsAt(own, ['a', 'request'], {}).map(({ name }) => name)).toEqual(['set', 'default', 'strip']);
});
