/** Bytes of a file whose text goes into a message. */
export const LARGEST_TEXT = 256 * 1024;

/** Why the text of a file can't be taken, in a sentence. */
export class TextFileProblem extends Error {}

/** The text of a file as a fenced block with its name above. */
export async function fencedText(file: File): Promise<string> {
  if (file.type === 'application/pdf' || /\.pdf$/i.test(file.name)) {
    throw new TextFileProblem(`${file.name}: PDFs can't be read here. Paste the text.`);
  }
  if (file.size > LARGEST_TEXT) {
    throw new TextFileProblem(`${file.name} is too long for a message: a file may have ${LARGEST_TEXT / 1024} KiB.`);
  }
  const bytes = await file.arrayBuffer().catch(() => null); // a folder, or a file that is gone
  if (bytes === null) throw new TextFileProblem(`${file.name} could not be read. Is it a folder?`);
  const text = decode(new Uint8Array(bytes));
  if (text === null) throw new TextFileProblem(`${file.name} is neither an image nor a text.`);
  return fenced(file.name, text);
}

/** The fence is longer than any in the text, so that none ends it. */
export function fenced(name: string, text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`{3,}/g)].map(([mark]) => mark.length));
  const fence = '`'.repeat(longest + 1);
  const language = /\.([A-Za-z0-9+#]{1,12})$/.exec(name)?.[1]?.toLowerCase() ?? '';
  return `${name}:\n${fence}${language}\n${text.replace(/\r\n?/g, '\n').trimEnd()}\n${fence}\n`;
}

/** The text, where it is UTF-8 (or UTF-16 that says so) without zeros. */
function decode(bytes: Uint8Array): string | null {
  try {
    const wide =
      bytes[0] === 0xff && bytes[1] === 0xfe ? 'utf-16le' : bytes[0] === 0xfe && bytes[1] === 0xff ? 'utf-16be' : null;
    const text = new TextDecoder(wide ?? 'utf-8', { fatal: true }).decode(bytes);
    return text.includes('\0') ? null : text;
  } catch {
    return null;
  }
}
