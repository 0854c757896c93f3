import type { EndedRequest } from '../api/types';

type Cell = string | number | boolean | null;

const COLUMNS: [string, (request: EndedRequest, key: string | null) => Cell][] = [
  ['n', ({ n }) => n],
  ['id', ({ id }) => id],
  ['started', ({ started }) => new Date(started * 1000).toISOString()],
  ['model', ({ model }) => model],
  ['key', ({ key }) => key],
  ['key_name', (_, name) => name],
  ['route', ({ route }) => route],
  ['stream', ({ stream }) => stream],
  ['outcome', ({ outcome }) => outcome],
  ['waited_seconds', ({ waited }) => waited],
  ['first_token_seconds', (request) => request.first_token],
  ['seconds', ({ seconds }) => seconds],
  ['bytes', ({ bytes }) => bytes],
  ['prompt_tokens', (request) => request.prompt_tokens],
  ['cached_tokens', (request) => request.cached_tokens],
  ['completion_tokens', (request) => request.completion_tokens],
  ['tokens_per_second', (request) => request.tokens_per_second],
  ['prompt_seconds', (request) => request.prompt_seconds],
];

/** The requests as CSV (RFC 4180), a line of names first. Times are UTC; what is not known is empty. */
export function csvOf(requests: readonly EndedRequest[], nameOfKey: (id: string | null) => string | null): string {
  const lines = [COLUMNS.map(([name]) => name)];
  for (const request of requests) {
    const name = nameOfKey(request.key);
    lines.push(COLUMNS.map(([, of]) => cell(of(request, name))));
  }
  return lines.map((line) => line.join(',') + '\r\n').join('');
}

function cell(value: Cell): string {
  if (value === null) return '';
  if (typeof value !== 'string') return String(value);
  // Clients choose ids and models: a spreadsheet must not take one for a formula (OWASP, CSV injection).
  const safe = /^\s*[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
