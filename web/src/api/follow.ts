import { ApiError, messagesOf, type Client, type StreamMessage } from './client';
import { Connection, seen } from './connection';
import { Pauses, rest } from './pauses';

export interface Following {
  client: Client;
  path: string;
  /** The service has answered, and what it has to say comes now. */
  opened?: () => void;
  /** Every event and comment, in their order. */
  take: (message: StreamMessage) => void;
  /** It broke off while the page is seen, or can't be had; it is tried again. */
  lost?: () => void;
  /** The service refuses it. True: it is not tried again. */
  refused: (error: ApiError) => boolean;
}

/**
 * Follow a stream that has no end, whatever breaks, until the function that is returned is called.
 *
 * It goes on after the last id that came. There is no connection while nobody sees the page; that is not told as a loss.
 */
export function follow(what: Following): () => void {
  const stop = new AbortController();
  void connectAgain(what, stop.signal);
  return () => stop.abort();
}

async function connectAgain({ client, path, ...what }: Following, signal: AbortSignal): Promise<void> {
  const pauses = new Pauses();
  const headers: Record<string, string> = { Accept: 'text/event-stream' };
  for (;;) {
    await seen(signal);
    if (signal.aborted) return;
    const connection = new Connection(signal);
    try {
      const response = await client.fetch(path, { headers, signal: connection.signal });
      connection.heard();
      what.opened?.();
      for await (const message of messagesOf(response, connection.signal)) {
        if (connection.signal.aborted) break;
        connection.heard();
        what.take(message);
        if (message.id) headers['Last-Event-ID'] = message.id;
        pauses.reset();
      }
    } catch (error) {
      if (!signal.aborted && error instanceof ApiError && what.refused(error)) return;
    } finally {
      connection.end();
    }
    if (signal.aborted) return;
    if (document.hidden) continue;
    what.lost?.();
    await rest(pauses.next(), signal);
  }
}
