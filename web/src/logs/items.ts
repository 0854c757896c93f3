/** What is shown of a log, in order. `key` tells one from all others. */
export type LogItem = LogLine | NewLife | LostLines;

export interface LogLine {
  kind: 'line';
  key: number;
  n: number;
  text: string;
  /** The rest is known of the service's own lines only. */
  time: number | null;
  level: string | null;
  logger: string | null;
  request: string | null;
  model: string | null;
}

/** From here on it is another process that writes. */
export interface NewLife {
  kind: 'life';
  key: number;
  of: 'service' | 'model';
  pid: number | null;
}

/** Lines that were written and never came. */
export interface LostLines {
  kind: 'lost';
  key: number;
  lost: number;
}

export const LEVELS = ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'] as const;
export type Level = (typeof LEVELS)[number];

/** Whether a line is at least of a level; one without a level is of all. */
export function reaches(line: LogLine, least: Level): boolean {
  const level = LEVELS.indexOf(line.level as Level);
  return level < 0 || level >= LEVELS.indexOf(least);
}

/** The log as a text file has it. */
export function asText(items: readonly LogItem[]): string {
  return items.map((item) => `${textOf(item)}\n`).join('');
}

function textOf(item: LogItem): string {
  if (item.kind === 'life') return `--- ${lifeWords(item)} ---`;
  if (item.kind === 'lost') return `--- ${lostWords(item)} ---`;
  const { time, level, logger, request, text } = item;
  if (time === null) return text;
  const about = [new Date(time * 1000).toISOString(), level, logger, request && `request=${request}`];
  return [...about.filter(Boolean), text].join(' ');
}

export function lifeWords({ of, pid }: Pick<NewLife, 'of' | 'pid'>): string {
  if (of === 'service') return 'The service was started again';
  return pid === null ? 'A new process begins' : `Process ${pid} begins`;
}

export function lostWords({ lost }: LostLines): string {
  return lost === 1 ? '1 line was lost' : `${lost.toLocaleString('en')} lines were lost`;
}
