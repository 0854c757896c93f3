import { additions } from './additions';
import { conversations } from './conversations.svelte';
import { BadImport } from './reading';
import { fromJson } from './transfer';
import { addWholes, wholes } from './wholes';

/** A larger file could take the memory of the page. Bytes. */
const LARGEST = 256 * 2 ** 20;

/** Add the conversations of an exported file, all or none. Returns what was done, in a sentence; throws why it was not. */
export async function importFile(file: File): Promise<string> {
  try {
    if (file.size > LARGEST) throw new BadImport('It is larger than 256 MiB.');
    const { conversations: imported, unknown } = fromJson(await file.text());
    await conversations.start();
    const ids = imported.map(({ id }) => id);
    const listed = await wholes(
      conversations,
      ids.filter((id) => conversations.heads.listed(id)),
    );
    const used = ids.filter((id) => conversations.find(id));
    const added = additions(imported, listed, used);
    await addWholes(conversations, added);
    const there = imported.length - added.length;
    return [
      `${counted(added.length)} imported${there ? `; ${counted(there)} had been here already` : ''}.`,
      ...(unknown ? [`${unknown === 1 ? '1 parameter' : `${unknown} parameters`} left out, not known here.`] : []),
    ].join(' ');
  } catch (error) {
    if (error instanceof BadImport)
      throw new Error(`“${file.name}” was not imported. ${error.message}`, { cause: error });
    throw error;
  }
}

function counted(chats: number): string {
  return chats === 1 ? '1 chat' : `${chats} chats`;
}
