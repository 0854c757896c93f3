import { expect, test } from 'vitest';

import { addressOf } from './address';

const PAGE = new URL('http://gpu-box:8000/');
const SECURE = new URL('https://my-herd.web.app/');

test.each([
  ['https://gpu-box:8443', 'https://gpu-box:8443'],
  ['  https://gpu-box:8443/v1/  ', 'https://gpu-box:8443'],
  ['https://gpu-box:8443/#/models', 'https://gpu-box:8443'],
  ['https://host.example/herd/?x=1', 'https://host.example/herd'],
  ['http://localhost:8000', 'http://localhost:8000'],
  ['http://127.0.0.1:8000/', 'http://127.0.0.1:8000'],
  ['http://[::1]:8000/', 'http://[::1]:8000'],
])('%s is an address', (typed, base) => expect(addressOf(typed, SECURE, false)).toEqual({ base, problem: null }));

test.each([
  ['', 'Enter the address'],
  ['gpu-box:8443', 'has to begin with https:// or http://, as https://gpu-box:8443.'],
  ['192.168.1.5', 'as https://192.168.1.5.'],
  ['//gpu-box', 'as https://gpu-box.'],
  ['ftp://gpu-box', 'has to begin with https:// or http://.'],
  ['https://', 'is not an address'],
  ['https://me:secret@gpu-box', 'no user name and no password'],
  ['http://gpu-box:8000', 'This page came over HTTPS'],
  ['http://localhost.example.org', 'This page came over HTTPS'],
])('%j is told what is wrong', (typed, problem) => {
  expect(addressOf(typed, SECURE, false)).toEqual({ base: null, problem: expect.stringContaining(problem) });
});

test('a page that came without HTTPS may speak to any', () => {
  expect(addressOf('http://other:1', PAGE, true).base).toBe('http://other:1');
});

test('the host of the page needs no address', () => {
  expect(addressOf('', PAGE, true).base).toBe('');
  expect(addressOf('http://gpu-box:8000/v1', PAGE, true).base).toBe('');
  expect(addressOf('http://gpu-box:8000', PAGE, false).base).toBe('http://gpu-box:8000');
});
