const LONGEST = 60;
export const UNTITLED = 'New chat';

/** What a conversation is called until somebody names it: the start of its first turn. */
export function titleOf(text: string): string {
  const line = text.trim().split('\n', 1)[0]!.replace(/\s+/g, ' ').trim();
  if (!line) return UNTITLED;
  const letters = Array.from(line);
  if (letters.length <= LONGEST) return line;
  const cut = letters.slice(0, LONGEST).join('');
  const space = cut.lastIndexOf(' ');
  return `${cut.slice(0, space > LONGEST / 2 ? space : undefined).trimEnd()} …`;
}
