/** Long code is laid out, and coloured while it grows, by so many lines: what has come stays as it is. */
export const CHUNK_LINES = 50;

/** Code in its chunks; each but the last one ends with its line feed. */
export function chunksOf(code: string): string[] {
  const chunks: string[] = [];
  let start = 0;
  let lines = 0;
  for (let end = code.indexOf('\n') + 1; end > 0 && end < code.length; end = code.indexOf('\n', end) + 1) {
    lines += 1;
    if (lines % CHUNK_LINES) continue;
    chunks.push(code.slice(start, end));
    start = end;
  }
  return [...chunks, code.slice(start)];
}

/** The same chunks of code that is marked with spans; a span that goes on in the next chunk is begun anew there. */
export function chunksOfMarked(html: string): string[] {
  const chunks: string[] = [];
  const open: string[] = [];
  let head = '';
  let start = 0;
  let lines = 0;
  for (const { 0: mark, index } of html.matchAll(/<span[^>]*>|<\/span>|\n/g)) {
    if (mark === '</span>') {
      open.pop();
    } else if (mark !== '\n') {
      open.push(mark);
    } else {
      lines += 1;
      if (lines % CHUNK_LINES) continue;
      chunks.push(head + html.slice(start, index + 1) + '</span>'.repeat(open.length));
      head = open.join('');
      start = index + 1;
    }
  }
  const rest = html.slice(start);
  if (!chunks.length || rest.replaceAll('</span>', '')) chunks.push(head + rest);
  return chunks;
}
