/** What the activity page reads of the feed's event "snapshot". */
export interface Snapshot {
  capture: { enabled: boolean };
  /** The number of the newest request that has ended; 0: none is remembered. */
  history: { newest: number };
}
