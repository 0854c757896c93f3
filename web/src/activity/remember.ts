/** What was kept in this browser under a name; null: nothing is, or nothing may be kept here. */
export function recalled(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** It is lost with the page where nothing may be kept. */
export function remember(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // as said
  }
}
