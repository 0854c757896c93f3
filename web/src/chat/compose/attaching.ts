import { messageOf } from '../../api/client';
import type { ChatImage } from '../types';
import { MOST_IMAGES, prepareImage } from './images';
import { fencedText } from './text-files';

/** What came of files that somebody gave. */
export interface Attached {
  images: ChatImage[];
  /** Blocks for the text of the message. */
  texts: string[];
  /** What could not be taken, and why. */
  problems: string[];
}

export const NO_IMAGES = 'This model takes text only. For images choose a model that sees them.';

/** The images, of which there may be `room` more (null: the model takes none), and the texts of other files. */
export async function attach(files: readonly File[], room: number | null): Promise<Attached> {
  const attached: Attached = { images: [], texts: [], problems: [] };
  for (const file of files) {
    try {
      if (!isImage(file)) attached.texts.push(await fencedText(file));
      else if (room === null) note(attached, NO_IMAGES);
      else if (attached.images.length >= room) note(attached, `A message may have ${MOST_IMAGES} images.`);
      else attached.images.push(await prepareImage(file));
    } catch (error) {
      note(attached, messageOf(error));
    }
  }
  return attached;
}

function note({ problems }: Attached, problem: string): void {
  if (!problems.includes(problem)) problems.push(problem);
}

/** SVG is a text that models can read. */
function isImage(file: File): boolean {
  return file.type.startsWith('image/') && file.type !== 'image/svg+xml';
}
