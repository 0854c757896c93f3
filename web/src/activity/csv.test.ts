import { expect, test } from 'vitest';

import { csvOf } from './csv';
import { ended } from './fixture';

function cells(changes: Parameters<typeof ended>[1], name: string | null = 'alice'): string {
  return csvOf([ended(1, changes)], () => name).split('\r\n')[1]!;
}

test('a line of names, then a line a request', () => {
  const lines = csvOf([ended(1, { started: 0 }), ended(2)], () => null).split('\r\n');
  expect(lines).toHaveLength(4);
  expect(lines[0]).toMatch(/^n,id,started,model,key,key_name,/);
  expect(lines[1]).toBe(
    '1,id-1,1970-01-01T00:00:00.000Z,smol,k1,,/v1/chat/completions,true,ok,1,3,10,100,20,5,70,10,1.5',
  );
});

test('what is not known is empty', () => {
  expect(cells({ waited: null, first_token: null, tokens_per_second: null, prompt_seconds: null })).toMatch(
    /,ok,,,10,100,20,5,70,,$/,
  );
});

test('commas, quotes and line breaks are quoted', () => {
  expect(cells({ id: 'a,"b"\nc' })).toContain('1,"a,""b""\nc",');
});

test.each(['=1+1', '+1', '-1', '@SUM(A1)', '\t=1', ' =1'])('no spreadsheet takes %j for a formula', (id) => {
  expect(cells({ id })).toContain(`1,'${id},`);
});

test('a formula with quotes is safe and quoted, also in the name of a key', () => {
  expect(cells({}, '=HYPERLINK("x","y")')).toContain(`,"'=HYPERLINK(""x"",""y"")",`);
});
