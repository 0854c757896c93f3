import uPlot from 'uplot';

export interface Series {
  name: string;
  /** A colour: a custom property's name, as `--series-1`. */
  color: string;
  /** As many as there are times; null is a gap. */
  values: (number | null)[];
  /** What is told in their place, where they are the upper ends of bars that stand on each other. */
  told?: (number | null)[];
  /** Drawn as a dashed line without a filled area: a limit. */
  limit?: boolean;
}

/** What the numbers on the axis go by: any, whole ones, or bytes. */
export type Steps = 'any' | 'whole' | 'bytes';

export interface Look {
  width: number;
  height: number;
  bars: boolean;
  steps: Steps;
  /** Charts with the same one move their cursors together. */
  sync: string | undefined;
  format: (value: number) => string;
  /** The value of a custom property. */
  color: (name: string) => string;
  /** First and last moment of the axis; null: those of the data. */
  span: () => [number, number] | null;
  /** The cursor is at the moment of that index; null: nowhere. */
  oncursor: (index: number | null) => void;
}

const DAY = 86_400;

/** How uPlot draws these series. It has no legend and no tooltip of its own. */
export function optionsOf(series: readonly Omit<Series, 'values'>[], look: Look): uPlot.Options {
  const { color } = look;
  const axis: uPlot.Axis = {
    stroke: color('--muted'),
    font: `12px ${color('--font')}`,
    grid: { stroke: color('--line'), width: 1 },
    ticks: { show: false },
  };
  return {
    width: look.width,
    height: look.height,
    legend: { show: false },
    // Room for half of the first and the last label.
    padding: [10, 14, 0, 0],
    series: [{}, ...series.map((one) => line(one, look))],
    axes: [
      {
        ...axis,
        size: 28,
        gap: 7,
        space: 64,
        values: (plot, ticks) => unlike(ticks.map((when) => moment(when, spanOf(plot)))),
      },
      {
        ...axis,
        size: 70,
        space: 34,
        incrs: increments(look.steps),
        values: (_, ticks) => ticks.map((value) => look.format(value).replace(/\.0(?!\d)/, '')),
      },
    ],
    scales: {
      x: { range: (_, low, high) => look.span() ?? padded(low, high, look.bars) },
      y: { range: (_, low, high) => [Math.min(0, low ?? 0), top(high ?? 0, look.steps)] },
    },
    cursor: {
      y: false,
      points: { size: 7 },
      drag: { x: false, y: false },
      sync: look.sync === undefined ? undefined : { key: look.sync, setSeries: false },
    },
    hooks: { setCursor: [(plot) => look.oncursor(plot.cursor.idx ?? null)] },
  };
}

function line(one: Omit<Series, 'values'>, { bars, color }: Look): uPlot.Series {
  const stroke = color(one.color);
  const drawn: uPlot.Series = { label: one.name, stroke, width: 1.75, points: { show: false } };
  if (one.limit) return { ...drawn, width: 1.5, dash: [5, 4] };
  if (bars)
    return { ...drawn, fill: one.told ? stroke : faint(stroke, 80), paths: uPlot.paths.bars!({ size: [0.7, 60] }) };
  return { ...drawn, fill: faint(stroke, 12) };
}

function faint(color: string, percent: number): string {
  return `color-mix(in srgb, ${color} ${percent}%, transparent)`;
}

/** A date is written once, also where it has several ticks. */
function unlike(labels: string[]): string[] {
  return labels.map((label, at) => (label === labels[at - 1] ? '' : label));
}

function spanOf(plot: uPlot): number {
  const { min, max } = plot.scales.x!;
  return (max ?? 0) - (min ?? 0);
}

/** Bars need half of their place on either side. */
function padded(low: number | null, high: number | null, bars: boolean): [number, number] {
  const first = low ?? 0;
  const last = high ?? first;
  const pad = bars ? Math.max((last - first) / 20, 1800) : first === last ? 1 : 0;
  return [first - pad, last + pad];
}

function top(high: number, steps: Steps): number {
  const least = { any: 1, whole: 4, bytes: 1024 }[steps];
  return Math.max(high * 1.08, least);
}

function increments(steps: Steps): number[] | undefined {
  if (steps === 'any') return undefined; // uPlot's own
  if (steps === 'whole') return powers(10, 10, [1, 2, 5]);
  return powers(1024, 5, [1, 2, 5, 10, 20, 50, 100, 200, 500]);
}

function powers(base: number, count: number, steps: number[]): number[] {
  return Array.from({ length: count }, (_, power) => steps.map((step) => step * base ** power)).flat();
}

/** A moment in the time of this browser, as precise as an axis of so many seconds needs it. */
export function moment(when: number, span: number): string {
  const date = new Date(when * 1000);
  if (span > 2 * DAY) return date.toLocaleDateString(undefined, { day: 'numeric', month: 'short' });
  const second = span < 240 ? '2-digit' : undefined;
  return date.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second, hourCycle: 'h23' });
}

/** A chart in a sentence, for those who don't see it. */
export function summaryOf(series: readonly Series[], format: (value: number) => string): string {
  const said = series.map(({ name, values, told }) => {
    const known = (told ?? values).filter((value) => value !== null);
    if (!known.length) return `${name}: nothing known.`;
    const least = known.reduce((a, b) => Math.min(a, b));
    const most = known.reduce((a, b) => Math.max(a, b));
    const range = least === most ? 'all the time' : `last, between ${format(least)} and ${format(most)}`;
    return `${name}: ${format(known.at(-1)!)} ${range}.`;
  });
  return said.join(' ');
}
