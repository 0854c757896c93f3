import { beforeEach, expect, test, vi } from 'vitest';

import { choosing } from './chart-pointer';

let area: HTMLElement;
let drafts: (readonly [number, number])[];
let ends: (readonly [number, number] | null)[];
let stop: () => void;

beforeEach(() => {
  area = document.createElement('div');
  area.getBoundingClientRect = () => new DOMRect(100, 0, 200, 50);
  area.setPointerCapture = vi.fn();
  [drafts, ends] = [[], []];
  stop = choosing(area, { ondraft: (chosen) => drafts.push(chosen), onend: (chosen) => ends.push(chosen) });
});

// jsdom has no PointerEvent.
function point(kind: string, x: number, more: { pointerId?: number; button?: number } = {}): void {
  const event = new MouseEvent(kind, { clientX: x, button: more.button ?? 0 });
  area.dispatchEvent(Object.assign(event, { pointerId: more.pointerId ?? 1 }));
}

test('a part is chosen from either side, and not beyond the area', () => {
  point('pointerdown', 150);
  point('pointermove', 120);
  point('pointermove', 90);
  point('pointerup', 90);
  expect(drafts).toEqual([
    [20, 50],
    [0, 50],
  ]);
  expect(ends).toEqual([[0, 50]]);
  expect(area.setPointerCapture).toHaveBeenCalledTimes(1);
});

test('a click chooses nothing', () => {
  point('pointerdown', 150);
  point('pointermove', 153);
  point('pointerup', 153);
  point('pointermove', 190);
  expect([drafts, ends]).toEqual([[], []]);
});

test('one that scrolls after all gives up', () => {
  point('pointerdown', 150);
  point('pointermove', 170);
  point('pointercancel', 170);
  expect(ends).toEqual([null]);
});

test('other buttons and a second finger are nothing', () => {
  point('pointerdown', 150, { button: 2 });
  point('pointermove', 190);
  point('pointerdown', 150);
  point('pointermove', 190, { pointerId: 2 });
  expect(drafts).toEqual([]);
});

test('it ends', () => {
  stop();
  point('pointerdown', 150);
  point('pointermove', 190);
  expect(drafts).toEqual([]);
});
