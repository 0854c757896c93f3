/** Whether a key belongs to an input method: Enter then takes what it proposes. */
export function isComposing(event: KeyboardEvent): boolean {
  // 229: what Safari says of the Enter that ends a composition.
  return event.isComposing || event.keyCode === 229;
}
