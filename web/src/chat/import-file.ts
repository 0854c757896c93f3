import { conversations } from './conversations.svelte';
import { additions, fromJson } from './transfer';

/** Add the conversations of an exported file, all or none. Returns what was done, in a sentence; throws why it was not. */
export async function importFile(file: Blob): Promise<string> {
  const imported = fromJson(await file.text());
  const added = additions(imported, await conversations.all());
  await conversations.addAll(added);
  const there = imported.length - added.length;
  return `${counted(added.length)} imported${there ? `; ${counted(there)} had been here already` : ''}.`;
}

function counted(chats: number): string {
  return chats === 1 ? '1 chat' : `${chats} chats`;
}
