import { Lexer, type Token, type TokenizerExtension } from 'marked';

/** Characters of one paragraph, cell or heading that are read for marks; a longer one is shown as it came. */
const LONGEST_INLINE = 8_000;
/** Characters that may be looked at, over and over, for each one that there is. */
const LOOKS = 60;
const LEAST_LOOKS = 1_000_000;

/** Of what is being read: how many more characters may be looked at. Only one text is read at a time. */
let left = 0;

function spend(looks: number): boolean {
  left -= looks;
  return left >= 0;
}

function plain<Kept extends Token>(source: string, kept: Kept[]): Kept[] {
  // marked's types know only its own tokens.
  kept.push({ type: 'plain', raw: source, text: source } as unknown as Kept);
  return kept;
}

/**
 * Each step of marked may look at all that is left of a paragraph, so that some texts take it quadratic time: a line of
 * `[`, or what a model writes that repeats itself. This one counts, and past the bound the rest of the text is plain.
 */
export class BoundedLexer extends Lexer {
  override lex(source: string): ReturnType<Lexer['lex']> {
    left = LEAST_LOOKS + LOOKS * source.length;
    return super.lex(source);
  }

  override inlineTokens(source: string, tokens: Token[] = []): Token[] {
    // Masking links and code within it is quadratic at worst.
    const worst = source.length + source.length ** 2 / 64;
    return source.length > LONGEST_INLINE || !spend(worst) ? plain(source, tokens) : super.inlineTokens(source, tokens);
  }
}

/** To be the first asked at each step: they take all the rest when nothing more may be looked at. */
export const boundingExtensions: TokenizerExtension[] = [
  {
    name: 'plain',
    level: 'block',
    tokenizer: (source) => (spend(paragraphEnd(source)) ? undefined : plain(source, [])[0]),
  },
  {
    name: 'plain',
    level: 'inline',
    tokenizer: (source) => (spend(source.length) ? undefined : plain(source, [])[0]),
  },
];

/** Where at the latest the paragraph ends with which the text begins. */
export function paragraphEnd(source: string): number {
  const at = source.indexOf('\n\n', 1);
  return at < 0 ? source.length : at;
}
