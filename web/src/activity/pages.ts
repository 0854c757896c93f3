import type { EndedRequest } from '../api/types';

/** More are not kept on the page; older ones are read again when somebody asks for them. */
export const MOST = 2000;

/** Numbers begin at 1 with each start of the service: the time tells those of one from those of another. */
export function nameOf({ n, started }: Pick<EndedRequest, 'n' | 'started'>): string {
  return `${n} ${started}`;
}

/** All of both, each once (what came last counts), newest first. */
export function merged(known: readonly EndedRequest[], more: readonly EndedRequest[]): EndedRequest[] {
  const byNumber = new Map(known.map((request) => [request.n, request]));
  for (const request of more) byNumber.set(request.n, request);
  return [...byNumber.values()].sort((a, b) => b.n - a.n);
}

/** The newest `keep` that were captured still are; the captures of the others were forgotten for them. */
export function withCaptures(requests: readonly EndedRequest[], keep: number): EndedRequest[] {
  let left = keep;
  return requests.map((request) => {
    if (!request.captured) return request;
    left -= 1;
    return left < 0 ? { ...request, captured: false } : request;
  });
}

/**
 * What is known after the newest page was read anew. What was known is dropped where the page does not reach down to
 * it, or shows that the service has forgotten it or began to count again.
 */
export function renewed(known: readonly EndedRequest[], page: readonly EndedRequest[]): EndedRequest[] {
  const names = new Set(page.map(nameOf));
  const same = known.some((request) => names.has(nameOf(request)));
  const newest = page[0]?.n ?? 0;
  if (!same || known.some((request) => request.n > newest)) return [...page];
  const oldest = page.at(-1)!.n;
  return merged(
    page,
    known.filter((request) => request.n < oldest),
  );
}
