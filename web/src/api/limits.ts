/** Within how many seconds a call is answered by a service that is well. */
const SHORT = 30;
/** Folders and files are read, on a slow disk at times. */
const FILES = 120;

/** What takes its time; null: as long as it takes. */
const LONG: readonly [RegExp, number | null][] = [
  [/^\/admin\/models\/[^/]+\/(un)?load(\?(?!wait=false$)|$)/, null],
  [/[?&]wait=true\b/, null],
  [/^\/admin\/(models-file|reload)\b/, FILES],
  [/^\/admin\/models\/[^/]+\/(un)?pin$/, FILES],
];

/** Seconds after which a call that was not answered counts as failed; null: never. */
export function limitOf(path: string): number | null {
  const found = LONG.find(([paths]) => paths.test(path));
  return found ? found[1] : SHORT;
}
