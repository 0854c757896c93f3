import { Database, type Callbacks } from './database';

/** A browser that takes longer may never answer. Milliseconds. */
const PATIENCE = 5000;

class TooLate extends Error {}

/** As `Database.open`; rejects where that takes too long. `onlate`: it would have been there after all. */
export async function openDatabase(callbacks: Callbacks, onlate: () => void): Promise<Database> {
  const opening = Database.open(callbacks);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const patience = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TooLate('The browser does not open the database.')), PATIENCE);
  });
  try {
    return await Promise.race([opening, patience]);
  } catch (error) {
    if (error instanceof TooLate) opening.then((database) => (database.close(), onlate())).catch(() => undefined);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
