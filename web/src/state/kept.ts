// What this browser keeps for the page. It may forbid that: then the page works until it is closed.

/** What was kept under a name; null: nothing is, or nothing may be. */
export function kept(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** The JSON that was kept under a name; null also where it is none. Whoever wrote it may have been somebody else. */
export function keptJson(name: string): unknown {
  try {
    return JSON.parse(kept(name) ?? 'null');
  } catch {
    return null;
  }
}

/** Keep it; null: forget what was kept. False where nothing, or no more, may be kept. */
export function keep(name: string, value: string | null): boolean {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
    return true;
  } catch {
    return false;
  }
}
