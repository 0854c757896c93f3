import { MarkdownReader } from '../content/reader';
import { branch } from './tree';
import type { Conversation } from './types';
import { nameOf } from './words';

const LOWEST = 6;
/** Answers stand below headings of this level. */
const ABOVE = 2;

/** The branch that is shown, to be read. */
export function toMarkdown({ title, system, messages, leaf, created }: Conversation): string {
  const turns = branch(messages, leaf);
  const models = new Set(turns.flatMap(({ stats }) => (stats?.model ? [stats.model] : [])));
  const facts = [dateOf(turns[0]?.at ?? created), ...models];
  const parts = [`# ${title.replace(/\s+/g, ' ')}`, `*${facts.join(' · ')}*`];
  if (system.trim()) parts.push('**System prompt**', quoted(system.trim()));
  for (const turn of turns) {
    parts.push(`## ${turn.role === 'user' ? 'You' : nameOf(turn)}`);
    parts.push(...turn.images.map(({ name }) => `*Image: ${name}*`));
    if (turn.text.trim()) parts.push(turn.role === 'user' ? quoted(turn.text.trim()) : lowered(turn.text.trim()));
  }
  return `${parts.join('\n\n')}\n`;
}

/** What somebody typed is no Markdown: quoted, none of it is taken for a heading of the chat. */
function quoted(text: string): string {
  return text
    .split(/\r\n?|\n/)
    .map((line) => `> ${line}`.trimEnd())
    .join('\n');
}

/** An answer whose headings are below those of the chat. */
function lowered(text: string): string {
  const blocks = new MarkdownReader().read(text, false);
  // Else the reader has left something out.
  if (blocks.map(({ raw }) => raw).join('') !== text) return text;
  return blocks
    .map((block) => {
      if (block.type !== 'heading') return block.raw;
      const level = Math.min(LOWEST, (block.depth as number) + ABOVE);
      return `${'#'.repeat(level)} ${block.text as string}${/\n*$/.exec(block.raw)![0]}`;
    })
    .join('');
}

/** As of the ISO, in the time of this browser. */
function dateOf(milliseconds: number): string {
  const date = new Date(milliseconds);
  const two = (part: number): string => String(part).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}
