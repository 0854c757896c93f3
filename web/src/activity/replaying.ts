import type { EndedRequestDetails } from '../api/types';

type Capture = NonNullable<EndedRequestDetails['capture']>;

/** Routes that ask a model something with a JSON body: only these are sent again. */
const REPLAYED: ReadonlySet<string> = new Set([
  '/chat/completions',
  '/v1/chat/completions',
  '/v1/completions',
  '/v1/embeddings',
  '/v1/responses',
  '/v1/messages',
  '/v1/rerank',
  '/v1/reranking',
  '/rerank',
  '/infill',
  '/api/chat',
  '/api/generate',
  '/api/embed',
  '/api/embeddings',
]);

/** The path without its query. */
export function pathOf(capture: Capture): string {
  return capture.request.path.split('?', 1)[0]!;
}

/** Why a captured request can't be sent again; null where it can. */
export function whyNot(capture: Capture): string | null {
  const { method, body, truncated } = capture.request;
  if (method !== 'POST' || !REPLAYED.has(pathOf(capture))) {
    return `Only requests that ask a model with a JSON body can be sent again; this is ${method} ${pathOf(capture)}.`;
  }
  if (truncated) return 'Its body was too long to be kept whole, so it can’t be sent again.';
  return typeof parsed(body) === 'string' ? 'Its body is no JSON object, so it can’t be sent again.' : null;
}

/** The object that a text is the JSON of, or what is wrong with it in words. */
export function parsed(text: string): Record<string, unknown> | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    // Where, but not what: browsers quote the text itself.
    const place = /line \d+,? column \d+/.exec((error as Error).message)?.[0];
    return `That is no valid JSON${place ? `: look at ${place}` : ''}.`;
  }
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? (value as Record<string, unknown>) : 'That is no JSON object.';
}

/** The same body for another model; as it was where it can't be read. */
export function withModel(text: string, model: string): string {
  const body = parsed(text);
  return typeof body === 'string' ? text : JSON.stringify({ ...body, model }, null, 2);
}
