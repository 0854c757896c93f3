import { expect, test } from 'vitest';

import { harmless } from './sanitise';

test('colours and cursor movements are taken away', () => {
  expect(harmless('\x1b[1;31merror\x1b[0m: \x1b[2Kno \x1b[10;3Hroom')).toBe('error: no room');
});

test('titles and links of terminals are taken away', () => {
  expect(harmless('\x1b]0;owned\x07a\x1b]8;;https://example.org\x1b\\b')).toBe('ab');
});

test('of an escape that never ends no control character stays', () => {
  expect(harmless('a\x1b[31')).toBe('a31');
  expect(harmless('a\x1b')).toBe('a\\x1b');
});

test('control characters are written out', () => {
  expect(harmless('a\x00b\x07c\x9b d\re')).toBe('a\\x00b\\x07c\\x9b d\\x0de');
});

test('tabs and line ends stay, a carriage return before one goes', () => {
  expect(harmless('a\tb\r\nc\r')).toBe('a\tb\nc');
});

test('characters that reorder text are written out', () => {
  expect(harmless('user\u202egnp.exe')).toBe('user\\u202egnp.exe');
});
