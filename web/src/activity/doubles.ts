import { vi } from 'vitest';

import type { Client } from '../api/client';
import { feed } from '../state/feed.svelte';
import { session } from '../state/session.svelte';

type Answers = Record<string, unknown>;

/** For tests: a service that answers these paths, and what was asked of it; a path that is not there fails. */
export function serve(answers: Answers): { asked: string[]; answers: Answers } {
  const asked: string[] = [];
  const json = (method: string) => (path: string) => {
    asked.push(`${method} ${path}`);
    return path in answers ? Promise.resolve(answers[path]) : Promise.reject(new Error(`No ${path}`));
  };
  const client = { get: json('GET'), delete: json('DELETE'), put: json('PUT'), post: json('POST') };
  session.client = client as unknown as Client;
  return { asked, answers };
}

/** For tests: what sends an event to all that listen to the feed. To be called before they do. */
export function tellers(): (kind: string, data: object) => void {
  const listeners: [string, (data: object) => void][] = [];
  vi.spyOn(feed, 'on').mockImplementation((kind, listener) => {
    const entry: (typeof listeners)[number] = [kind, listener as (data: object) => void];
    listeners.push(entry);
    return () => listeners.splice(listeners.indexOf(entry), 1);
  });
  return (kind, data) => [...listeners].filter(([known]) => known === kind).forEach(([, listener]) => listener(data));
}
