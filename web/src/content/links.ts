const FORMS = new Set(['http:', 'https:', 'mailto:']);
const IMAGE = /^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$/;

/** The text with character references (`&amp;`) as the characters that they mean. */
export function decodeReferences(text: string): string {
  if (!text.includes('&')) return text;
  return text.replace(/&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z][a-z\d]{1,31});/gi, characters);
}

function characters(reference: string): string {
  // No document of the page: nothing of it runs or is fetched; and it is but one reference.
  return new DOMParser().parseFromString(reference, 'text/html').body.textContent || reference;
}

/** Where a link may lead: to the web or to mail; null for anything else, as for what has no host of its own. */
export function safeLink(href: string, literal = false): string | null {
  try {
    const url = new URL(literal ? href : decodeReferences(href));
    return FORMS.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** The source of an image that comes within the text; null for one that would be fetched. */
export function inlineImage(href: string): string | null {
  return IMAGE.test(href) ? href : null;
}
