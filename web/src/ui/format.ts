/** Numbers as people read them. What is not known is a dash. */

const NONE = '–';
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(size: number | null | undefined): string {
  if (size === null || size === undefined) return NONE;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit > 0 && Math.abs(size) < 10 ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`;
}

/** A duration: `340 ms`, `1.2 s`, `3 min 5 s`, `2 h 4 min`. */
export function seconds(duration: number | null | undefined): string {
  if (duration === null || duration === undefined) return NONE;
  if (duration < 1) return `${Math.round(duration * 1000)} ms`;
  if (duration < 10) return `${duration.toFixed(1)} s`;
  const whole = Math.round(duration);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? NONE : value.toLocaleString('en');
}

/** A rate with as many digits as matter. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(1);
}

export function percent(part: number | null | undefined): string {
  return part === null || part === undefined ? NONE : `${Math.round(part * 100)} %`;
}

/** A moment (seconds since the epoch) in the time of this browser. */
export function moment(when: number | null | undefined): string {
  if (when === null || when === undefined) return NONE;
  return new Date(when * 1000).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

/** The time of day of a moment, to the second. */
export function time(when: number | null | undefined): string {
  if (when === null || when === undefined) return NONE;
  return new Date(when * 1000).toLocaleTimeString(undefined, { hourCycle: 'h23' });
}

/** How long ago a moment was: `just now`, `5 min ago`. */
export function ago(when: number | null | undefined, now: number): string {
  if (when === null || when === undefined) return NONE;
  const gone = now - when;
  if (gone < 10) return 'just now';
  if (gone < 60) return `${Math.floor(gone)} s ago`;
  if (gone < 3600) return `${Math.floor(gone / 60)} min ago`;
  if (gone < 86_400) return `${Math.floor(gone / 3600)} h ago`;
  return `${Math.floor(gone / 86_400)} d ago`;
}

/** A name of a device for people: `Memory`, `GPU 0`. */
export function device(name: string): string {
  if (name === 'host') return 'Memory';
  const gpu = /^gpu(\d+)$/.exec(name);
  return gpu ? `GPU ${gpu[1]}` : name;
}
