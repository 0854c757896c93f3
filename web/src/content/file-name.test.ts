import { expect, it } from 'vitest';

import { fileName } from './file-name';

it.each([
  ['', 'code.txt'],
  ['Python', 'code.py'],
  ['ts', 'code.ts'],
  ['html', 'code.html'],
  ['c++', 'code.cpp'],
  ['Dockerfile', 'Dockerfile'],
  ['constructor', 'code.txt'],
  ['../../x', 'code.txt'],
  ['a b', 'code.txt'],
])('code in %j is saved as %s', (language, name) => {
  expect(fileName(language)).toBe(name);
});
