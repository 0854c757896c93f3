import uPlot from 'uplot';

import { INCREMENTS, isDates, LEAST, moment, sizeLabel, timeIncrements, type Steps } from './chart-ticks';

/** The first and the last moment of a part of a chart, in seconds since the epoch. */
export type Span = readonly [from: number, until: number];

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

export interface Look {
  width: number;
  height: number;
  bars: boolean;
  steps: Steps;
  /** The values of its axis take less room. */
  compact: boolean;
  /** Charts with the same one move their cursors together. */
  sync: string | undefined;
  format: (value: number) => string;
  /** The value of a custom property. */
  color: (name: string) => string;
  /** First and last moment of the axis; null: those of the data. */
  span: () => Span | null;
  /** The cursor is at the moment of that index; null: nowhere. */
  oncursor: (index: number | null) => void;
  /** It was drawn: what lies over it may have to move. */
  ondraw: (plot: uPlot) => void;
}

const NO_LISTENER = (): null => null;

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
    // Room for half of the last label.
    padding: [10, 28, 0, 0],
    series: [{}, ...series.map((one) => line(one, look))],
    axes: [
      {
        ...axis,
        size: 28,
        gap: 7,
        space: 72,
        incrs: (_plot, _axis, low, high) => timeIncrements(high - low),
        values: (_plot, ticks, _axis, _space, distance) => ticks.map((when) => moment(when, distance)),
      },
      {
        ...axis,
        size: look.compact ? 56 : 70,
        space: look.compact ? 22 : 28,
        incrs: INCREMENTS[look.steps],
        values: (_plot, ticks, _axis, _space, distance) => ticks.map((value) => label(value, distance, look)),
      },
    ],
    scales: {
      x: { range: (_, low, high) => [...(look.span() ?? padded(low, high, look.bars))] },
      y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max((high ?? 0) * 1.08, LEAST[look.steps])] },
    },
    cursor: {
      y: false,
      points: { size: 7 },
      drag: { x: false, y: false, setScale: false },
      // A part is chosen with any pointer (chart-pointer.ts).
      bind: { mousedown: NO_LISTENER, mouseup: NO_LISTENER, dblclick: NO_LISTENER },
      sync: look.sync === undefined ? undefined : { key: look.sync, setSeries: false },
    },
    hooks: { setCursor: [(plot) => look.oncursor(plot.cursor.idx ?? null)], draw: [look.ondraw] },
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

/** Bars need half of their place on either side. */
function padded(low: number | null, high: number | null, bars: boolean): Span {
  const first = low ?? 0;
  const last = high ?? first;
  const pad = bars ? Math.max((last - first) / 20, 1800) : first === last ? 1 : 0;
  return [first - pad, last + pad];
}

function label(value: number, distance: number, { steps, format }: Look): string {
  return steps === 'bytes' ? sizeLabel(value, distance) : format(value).replace(/\.0(?!\d)/, '');
}

/** The moment of a value as it is read beside the chart: to the second, or the bucket of a bar. */
export function momentOf(when: number, length: number, bars: boolean): string {
  return moment(when, bars ? (isDates(length) ? 86_400 : 3600) : 1);
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
