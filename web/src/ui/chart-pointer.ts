/** Pixels from the left edge. */
type Chosen = readonly [from: number, until: number];

interface Choosing {
  /** What is chosen so far. */
  ondraft: (chosen: Chosen) => void;
  /** The last draft is it; null: it was given up. */
  onend: (chosen: Chosen | null) => void;
}

const LEAST = 6; // pixels: less is a click

/** Let the mouse, a finger or a pen choose a part of an area from one side to the other, until that is ended. */
export function choosing(area: HTMLElement, { ondraft, onend }: Choosing): () => void {
  const stop = new AbortController();
  let began: { pointer: number; at: number } | null = null;
  let chosen: Chosen | null = null;

  const on = (
    kind: 'pointerdown' | 'pointermove' | 'pointerup' | 'pointercancel',
    take: (event: PointerEvent) => void,
  ) => area.addEventListener(kind, take, { signal: stop.signal });
  const place = (event: PointerEvent): number => {
    const { left, width } = area.getBoundingClientRect();
    return Math.min(Math.max(event.clientX - left, 0), width);
  };
  const end = (event: PointerEvent, taken: boolean): void => {
    if (began?.pointer !== event.pointerId) return;
    if (chosen) onend(taken ? chosen : null);
    began = chosen = null;
  };

  on('pointerdown', (event) => {
    if (began === null && event.button === 0) began = { pointer: event.pointerId, at: place(event) };
  });
  on('pointermove', (event) => {
    if (began?.pointer !== event.pointerId) return;
    const at = place(event);
    if (!chosen && Math.abs(at - began.at) < LEAST) return;
    // It may leave the area meanwhile.
    if (!chosen) area.setPointerCapture(event.pointerId);
    chosen = [Math.min(at, began.at), Math.max(at, began.at)];
    ondraft(chosen);
  });
  on('pointerup', (event) => end(event, true));
  on('pointercancel', (event) => end(event, false));
  return () => stop.abort();
}
