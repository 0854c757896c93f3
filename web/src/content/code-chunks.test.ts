import { describe, expect, it } from 'vitest';

import { CHUNK_LINES, chunksOf, chunksOfMarked } from './code-chunks';

const lines = (many: number): string => 'a < b\n'.repeat(many);

describe('chunks of code', () => {
  it.each([
    ['', 1],
    ['a', 1],
    [lines(CHUNK_LINES), 1],
    [`${lines(CHUNK_LINES)}b`, 2],
    [`${lines(CHUNK_LINES)}\n`, 2],
    ['\n'.repeat(2 * CHUNK_LINES + 1), 3],
    [lines(10 * CHUNK_LINES - 1), 10],
  ])('%#: are the code, whether marked or not', (code, many) => {
    expect(chunksOf(code)).toHaveLength(many);
    expect(chunksOf(code).join('')).toBe(code);
    const escaped = code.replaceAll('<', '&lt;');
    expect(chunksOfMarked(escaped)).toEqual(chunksOf(code).map((chunk) => chunk.replaceAll('<', '&lt;')));
  });

  it('begin spans anew that go on', () => {
    const html = `<span class="a">b<span class="c">\n${'d\n'.repeat(CHUNK_LINES)}</span>e</span>f`;
    const [first, second, ...more] = chunksOfMarked(html);
    expect(first).toBe(`<span class="a">b<span class="c">\n${'d\n'.repeat(CHUNK_LINES - 1)}</span></span>`);
    expect(second).toBe('<span class="a"><span class="c">d\n</span>e</span>f');
    expect(more).toEqual([]);
  });

  it('have no last one that is empty', () => {
    const html = `<span class="a">${lines(CHUNK_LINES)}</span>`;
    expect(chunksOfMarked(html)).toEqual([html.replace('</span>', '') + '</span>']);
  });
});
