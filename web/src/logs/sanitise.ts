/** What tells a terminal to do something: colours and cursor (CSI), titles and links (OSC), strings, other escapes. */
const ESCAPES =
  /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b[ -/]*[0-~]/g;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
/** They change the order of what stands around them, or are not seen: one line could look like another. */
const DECEIVING = /[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** A line of a log as plain text: without colours, and with control characters written out, as `\x07`. */
export function harmless(line: string): string {
  return line
    .replace(ESCAPES, '')
    .replace(/\r+(?=\n|$)/g, '')
    .replace(CONTROLS, (found) => `\\x${code(found, 2)}`)
    .replace(DECEIVING, (found) => `\\u${code(found, 4)}`);
}

function code(character: string, digits: number): string {
  return character.charCodeAt(0).toString(16).padStart(digits, '0');
}
