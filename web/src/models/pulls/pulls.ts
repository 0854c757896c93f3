import type { Pull, PullRequest } from '../../api/types';
import { bytes } from '../../ui/format';

const RECENT = 3600; // seconds

export function hasEnded(pull: Pull): boolean {
  return pull.state === 'done' || pull.state === 'failed' || pull.state === 'cancelled';
}

/** What was read and what the feed told since, which is newer; the newest first. */
export function merged(read: readonly Pull[], told: readonly Pull[]): Pull[] {
  const known = new Map([...read, ...told].map((pull) => [pull.id, pull]));
  return [...known.values()].sort((one, other) => other.created - one.created);
}

/** Whether somebody has asked for the same again since it failed or was cancelled. */
export function isRepeated(pull: Pull, pulls: readonly Pull[]): boolean {
  if (pull.state !== 'failed' && pull.state !== 'cancelled') return false;
  const fits = (field: 'revision' | 'name', other: Pull): boolean =>
    other[field] === pull[field] || pull.error?.param === field;
  return pulls.some(
    (other) =>
      other.created > pull.created &&
      other.source === pull.source &&
      fits('revision', other) &&
      fits('name', other) &&
      (other.quant === pull.quant || pull.error?.choices.some(({ quant }) => quant === other.quant)),
  );
}

/** Those to show at once, and older ones. `now` is in seconds since the epoch. */
export function sorted(
  pulls: readonly Pull[],
  dismissed: ReadonlySet<string>,
  now: number,
): { current: Pull[]; earlier: Pull[] } {
  const current: Pull[] = [];
  const earlier: Pull[] = [];
  for (const pull of pulls) {
    if (isRepeated(pull, pulls)) continue;
    const recent = !hasEnded(pull) || (!dismissed.has(pull.id) && now - (pull.ended ?? now) < RECENT);
    (recent ? current : earlier).push(pull);
  }
  return { current, earlier };
}

/** How much of it is there, 0 to 1; null where that is not known. */
export function part(pull: Pull): number | null {
  if (pull.state === 'done') return 1;
  return pull.total ? Math.min(1, pull.bytes / pull.total) : null;
}

/** Seconds that it will still take at its pace; null where that can't be told. */
export function remaining(pull: Pull): number | null {
  if (pull.state !== 'fetching' || pull.total === null || !pull.speed) return null;
  const seconds = (pull.total - pull.bytes) / pull.speed;
  return seconds < 60 ? Math.ceil(seconds) : Math.ceil(seconds / 5) * 5;
}

/** `1.2 GiB of 4.4 GiB`; null as long as nothing is known. */
export function amount(pull: Pull): string | null {
  if (pull.total === null) return pull.bytes ? bytes(pull.bytes) : null;
  return pull.state === 'done' ? bytes(pull.total) : `${bytes(pull.bytes)} of ${bytes(pull.total)}`;
}

/** What is to be asked for to have the same once more. */
export function requestOf(pull: Pull): PullRequest {
  return {
    source: pull.source,
    ...(pull.quant === null ? {} : { quant: pull.quant }),
    ...(pull.revision === null ? {} : { revision: pull.revision }),
    ...(pull.name === null ? {} : { name: pull.name }),
    ...(pull.mmproj ? {} : { mmproj: false }),
  };
}

/** Whether its source is told as it was asked for: an address lost what signed it. */
export function isWhole(pull: Pull): boolean {
  return !isAddress(pull);
}

function isAddress({ source }: Pull): boolean {
  return /^https?:/i.test(source);
}

/**
 * Why it failed, for people, where that can be said better than the service does; null: as that says it. The server of
 * its source could not be found, or did not let the service connect.
 */
export function advice(pull: Pull): string | null {
  // The code is that of all downloads that fail.
  const { code, message } = pull.error ?? {};
  if (code !== 'download_failed' || !message?.includes(': no connection to ')) return null;
  const who = isAddress(pull) ? 'That server' : 'The hub';
  const other = isAddress(pull) ? 'set a proxy' : 'set another hub (setting hub.endpoint) or a proxy';
  return `${who} can't be reached from this machine. Copy the file into the models folder and reload, or ${other}.`;
}

/** How a pull is called on the page: as what was asked for. */
export function title(pull: Pull): string {
  const quant = pull.quant && !pull.source.endsWith(`:${pull.quant}`) ? `:${pull.quant}` : '';
  return `${pull.source}${quant}${pull.revision ? ` at ${pull.revision}` : ''}`;
}
