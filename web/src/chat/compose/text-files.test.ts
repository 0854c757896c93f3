import { expect, it } from 'vitest';

import { fenced, fencedText, LARGEST_TEXT } from './text-files';

it('stands in a fence with the name above', async () => {
  expect(await fencedText(new File(['a\r\nb\n'], 'x.py'))).toBe('x.py:\n```py\na\nb\n```\n');
});

it.each([
  ['no fence', '```'],
  ['a ``` fence', '````'],
  ['`````\nlong', '``````'],
])('%j is within %s', (text, fence) => {
  expect(fenced('Makefile', text)).toBe(`Makefile:\n${fence}\n${text}\n${fence}\n`);
});

it.each([
  ['UTF-8 with a mark', [0xef, 0xbb, 0xbf, 0x61]],
  ['UTF-16, little end first', [0xff, 0xfe, 0x61, 0]],
  ['UTF-16, big end first', [0xfe, 0xff, 0, 0x61]],
])('reads %s', async (_, bytes) => {
  expect(await fencedText(new File([Uint8Array.from(bytes)], 'x'))).toBe('x:\n```\na\n```\n');
});

it.each([
  ['a program', [0x7f, 0x45, 0x4c, 0x46, 0, 0]],
  ['no UTF-8', [0xc3, 0x28]],
])('refuses %s', async (_, bytes) => {
  await expect(fencedText(new File([Uint8Array.from(bytes)], 'x'))).rejects.toThrow(
    'x is neither an image nor a text.',
  );
});

it.each([
  ['a.PDF', ''],
  ['a', 'application/pdf'],
])('says what helps with a PDF (%s, %j), however long', async (name, type) => {
  const file = new File(['a'.repeat(LARGEST_TEXT + 1)], name, { type });
  await expect(fencedText(file)).rejects.toThrow("PDFs can't be read here. Paste the text.");
});

it('refuses what is too long', async () => {
  await expect(fencedText(new File(['a'.repeat(LARGEST_TEXT + 1)], 'x'))).rejects.toThrow(/256 KiB/);
});
