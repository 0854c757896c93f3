import { expect, test } from 'vitest';

import type { Setting } from '../../api/types';
import { differs, groupsOf, valueWords } from './groups';

function setting(name: string, more: Partial<Setting> = {}): Setting {
  return {
    name,
    section: name.split('.')[0]!,
    value: 1,
    default: 1,
    source: 'default',
    description: '',
    secret: false,
    ...more,
  };
}

const settings = [
  setting('server.port', { value: 8001, default: 8000, source: 'SERVER_PORT', description: 'Port to listen on.' }),
  setting('server.host', { value: '127.0.0.1', default: '127.0.0.1' }),
  setting('log.format', { value: 'text', default: 'text', source: 'config.yml:3' }),
];

function names(search: string, onlyChanged = false): string[] {
  return groupsOf(settings, search, onlyChanged).flatMap(({ settings }) => settings.map(({ name }) => name));
}

test('settings come by section', () => {
  expect(groupsOf(settings, '', false).map(({ section }) => section)).toEqual(['server', 'log']);
});

test('every word that is searched for must be somewhere: in the name, the text, the value, the source', () => {
  expect(names('listen port')).toEqual(['server.port']);
  expect(names('8001')).toEqual(['server.port']);
  expect(names('config.yml')).toEqual(['log.format']);
  expect(names('port nowhere')).toEqual([]);
});

test('what somebody has set counts as changed, also to what it is by itself', () => {
  expect(names('', true)).toEqual(['server.port', 'log.format']);
  expect(differs(settings[0]!)).toBe(true);
  expect(differs(settings[2]!)).toBe(false);
});

test('of a secret it is not told whether it differs', () => {
  expect(differs(setting('a.b', { value: '********', default: null, secret: true }))).toBe(false);
});

test('values are words', () => {
  expect([null, '', [], ['a', 'b'], true, 0.5, { a: 1 }].map(valueWords)).toEqual([
    'none',
    'empty',
    'none',
    'a, b',
    'true',
    '0.5',
    '{"a":1}',
  ]);
});
