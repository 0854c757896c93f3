import katex from 'katex';

import { cleanMath } from './sanitize';

/** TeX as MathML that may be put into the page; null where it is none that can be read. */
export function typeset(tex: string, display: boolean): string | null {
  try {
    return cleanMath(
      katex.renderToString(tex, {
        output: 'mathml',
        displayMode: display,
        throwOnError: true,
        strict: 'ignore',
        trust: false,
        maxSize: 40,
        maxExpand: 500,
      }),
    );
  } catch {
    return null;
  }
}
