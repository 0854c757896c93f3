import DOMPurify from 'dompurify';

/** MathML of katex: neither styles, links nor the TeX that it came from. */
export function cleanMath(html: string): string {
  return DOMPurify.sanitize(html, {
    USE_PROFILES: { mathMl: true },
    ADD_FORBID_CONTENTS: ['annotation'],
    FORBID_ATTR: ['style', 'href', 'xlink:href', 'class', 'id'],
    ALLOW_DATA_ATTR: false,
  });
}

/** Code that highlight.js has marked: spans with classes. */
export function cleanCode(html: string): string {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: ['span'],
    ALLOWED_ATTR: ['class'],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}
