/** The page can answer a key or draw a frame after so long. Milliseconds. */
const SLICE = 8;

/** Do what a generator does, and let the page work in between. Throws what `signal` was aborted with. */
export async function inSlices<T>(work: Generator<undefined, T>, signal: AbortSignal): Promise<T> {
  for (;;) {
    const end = performance.now() + SLICE;
    do {
      const step = work.next();
      if (step.done) return step.value;
    } while (performance.now() < end);
    await new Promise((resolve) => setTimeout(resolve));
    signal.throwIfAborted();
  }
}
