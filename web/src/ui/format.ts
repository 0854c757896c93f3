/** Numbers as people read them. What is not known is a dash. */

const NONE = '–';
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(size: number | null | undefined): string {
  if (!isKnown(size)) return NONE;
  let unit = 0;
  // As it will be shown: what rounds to 1024 is one of the next unit.
  while (Math.round(Math.abs(size)) >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit > 0 ? short(size) : Math.round(size)} ${UNITS[unit]}`;
}

/** A duration: `340 ms`, `1.2 s`, `3 min 5 s`, `2 h 4 min`. */
export function seconds(duration: number | null | undefined): string {
  if (!isKnown(duration)) return NONE;
  const milliseconds = Math.round(Math.max(0, duration) * 1000);
  if (milliseconds < 1000) return `${milliseconds} ms`;
  const whole = Math.round(duration);
  if (whole < 60) return `${short(duration)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function count(value: number | null | undefined): string {
  return isKnown(value) ? value.toLocaleString('en') : NONE;
}

/** A rate with as many digits as matter. */
export function rate(value: number | null | undefined): string {
  if (!isKnown(value)) return NONE;
  return value >= 99.95 ? Math.round(value).toLocaleString('en') : value.toFixed(1);
}

/** 0 and 100 only where it is nothing, or all of it. */
export function percent(part: number | null | undefined): string {
  if (!isKnown(part)) return NONE;
  const rounded = Math.round(part * 100);
  if (part > 0 && rounded === 0) return '< 1 %';
  return `${part < 1 ? Math.min(99, rounded) : rounded} %`;
}

/** A moment (seconds since the epoch) in the time of this browser. */
export function moment(when: number | null | undefined): string {
  if (!isKnown(when)) return NONE;
  return new Date(when * 1000).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

/** The time of day of a moment, to the second. */
export function time(when: number | null | undefined): string {
  if (!isKnown(when)) return NONE;
  return new Date(when * 1000).toLocaleTimeString(undefined, { hourCycle: 'h23' });
}

/** How long ago a moment was: `just now`, `5 min ago`. */
export function ago(when: number | null | undefined, now: number): string {
  if (!isKnown(when)) return NONE;
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

function isKnown(value: number | null | undefined): value is number {
  return value !== null && value !== undefined && Number.isFinite(value);
}

/** With a tenth where it is less than ten. */
function short(value: number): string {
  return Math.abs(value) < 9.95 ? value.toFixed(1) : String(Math.round(value));
}
