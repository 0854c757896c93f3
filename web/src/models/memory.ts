import type { AdminModel, AdminModelDetails, Devices, ModelLife, Sample } from '../api/types';

/** What a model has of a device, or (`expected`) what counts as its own beside that: it was admitted with it. */
export interface Share {
  model: string;
  bytes: number;
  expected: boolean;
}

/** Bytes of a device. `room`: what all models may have together; null: nobody looks. */
export interface DeviceMemory {
  device: string;
  shares: Share[];
  models: number;
  /** What other programs have, and nobody. */
  others: number;
  free: number;
  total: number | null;
  room: number | null;
  /** Less than a twentieth of the room is left, or none. */
  state: 'fine' | 'full' | 'over';
}

type Holder = Pick<ModelLife, 'name' | 'state' | 'memory'>;

export function isSettled(model: Pick<ModelLife, 'state'>): boolean {
  return model.state === 'stopped' || model.state === 'failed';
}

/** Whether it is on its way out of memory. */
export function isLeaving(model: Pick<ModelLife, 'state'>): boolean {
  return model.state === 'draining' || model.state === 'stopping';
}

/** What a running model holds of a device: what was measured there, and what it was admitted with beyond that. */
export function sharesOf(model: Holder, device: string): Share[] {
  if (isSettled(model)) return [];
  const { expected, measured } = model.memory;
  const has = measured[device] ?? 0;
  const more = Math.max(0, (expected[device] ?? 0) - has);
  return [
    { model: model.name, bytes: has, expected: false },
    { model: model.name, bytes: more, expected: true },
  ].filter(({ bytes }) => bytes > 0);
}

/** What each model has, and what counts as its own beside that. */
export function holdersOf(shares: readonly Share[]): { model: string; has: number; more: number }[] {
  const of = (model: string, expected: boolean): number =>
    sum(shares.filter((share) => share.model === model && share.expected === expected));
  return [...new Set(shares.map(({ model }) => model))].map((model) => ({
    model,
    has: of(model, false),
    more: of(model, true),
  }));
}

/** The memory of each device, the host first. Without a sample only what models hold is known. */
export function devicesOf(models: readonly Holder[], sample: Sample['memory'] | null): DeviceMemory[] {
  const running = models.filter((model) => !isSettled(model));
  const held = running.flatMap(({ memory }) => [...Object.keys(memory.expected), ...Object.keys(memory.measured)]);
  const names = [...new Set([...Object.keys(sample ?? {}), ...held])].sort(byDevice);
  return names.map((device) => {
    const seen = sample?.[device];
    const shares = running.flatMap((model) => sharesOf(model, device));
    const now = sum(shares.filter((share) => !share.expected));
    const all = sum(shares);
    const others = Math.max(0, (seen?.used ?? 0) - now);
    const total = seen?.total ?? null;
    const room = seen?.room ?? null;
    return {
      device,
      shares,
      models: all,
      others,
      free: total === null ? 0 : Math.max(0, total - all - others),
      total,
      room,
      state: room === null || !all ? 'fine' : all > room ? 'over' : room - all < room / 20 ? 'full' : 'fine',
    };
  });
}

export function byDevice(one: string, other: string): number {
  if (one === 'host' || other === 'host') return one === other ? 0 : one === 'host' ? -1 : 1;
  return one.localeCompare(other, 'en', { numeric: true });
}

const COLORS = 6;

/** A colour for each running model: the same as long as no other one needs it. */
export function colorsOf(models: readonly Holder[]): Map<string, string> {
  const colors = new Map<string, string>();
  const taken = new Set<number>();
  models.forEach((model, at) => {
    if (isSettled(model)) return;
    let color = at % COLORS;
    for (let tries = 0; taken.has(color) && tries < COLORS; tries++) color = (color + 1) % COLORS;
    taken.add(color);
    colors.set(model.name, `--series-${color + 1}`);
  });
  return colors;
}

/** Bytes over all devices; null where nothing is known. */
export function sumOf(devices: Devices | null | undefined): number | null {
  const sizes = Object.values(devices ?? {});
  return sizes.length ? sizes.reduce((all, size) => all + size, 0) : null;
}

/** Bytes that a model takes, as far as it is known. */
export function sizeOf(model: AdminModel): number {
  return sumOf(model.memory.measured) ?? sumOf(model.memory.expected) ?? 0;
}

/** The part of `room` and `needed` that is memory; the rest are numbers of models. */
export function isDevice(name: string): boolean {
  return name !== 'models' && !name.startsWith('group:');
}

/** What is too small for a model, were everything else gone: a device, what it needs and what there is. */
export function lacksOf({ needed, room }: AdminModelDetails): { device: string; needed: number; room: number }[] {
  return Object.entries(needed ?? {})
    .filter(([device, bytes]) => isDevice(device) && bytes > (room?.[device] ?? Infinity))
    .map(([device, bytes]) => ({ device, needed: bytes, room: room![device]! }));
}

function sum(shares: readonly Share[]): number {
  return shares.reduce((all, { bytes }) => all + bytes, 0);
}
