import { newId } from '../ids';
import type { ChatImage } from '../types';

/** Pixels on a side, and bytes: what is larger is made smaller. */
export const LONGEST_SIDE = 1536;
export const LARGEST = 1_500_000;
/** Bytes of a file that is opened at all, and how many images a message may have. */
export const LARGEST_FILE = 50_000_000;
export const MOST_IMAGES = 8;

const QUALITIES = [0.9, 0.8, 0.65, 0.5];

type Kind = 'png' | 'jpeg' | 'webp';

/** Why a file can't be sent as an image, in a sentence. */
export class ImageProblem extends Error {}

/** An image as the service takes it: at most so large, turned the right way, and without the place it was taken at. */
export async function prepareImage(file: File): Promise<ChatImage> {
  const name = file.name || 'Image';
  if (file.size > LARGEST_FILE) throw new ImageProblem(`${name} is too large.`);
  const read = await file.arrayBuffer().catch(() => null);
  if (read === null) throw new ImageProblem(`${name} could not be read.`);
  const bytes = new Uint8Array(read);
  const bitmap = await decode(file, name);
  try {
    const kind = kindOf(bytes);
    const blob = canStay(kind, bytes, bitmap)
      ? new Blob([bytes], { type: `image/${kind}` })
      : await redraw(bitmap, kind === 'png', name);
    return { id: newId(), name, url: await dataUrl(blob) };
  } finally {
    bitmap.close();
  }
}

/** What a file is by its first bytes; null for what the service takes not (or only as another kind). */
export function kindOf(bytes: Uint8Array): Kind | null {
  if (begins(bytes, 0, '\x89PNG\r\n\x1a\n')) return 'png';
  if (begins(bytes, 0, '\xff\xd8\xff')) return 'jpeg';
  if (begins(bytes, 0, 'RIFF') && begins(bytes, 8, 'WEBP')) return 'webp';
  return null;
}

/** Whether the bytes may be sent as they are. */
export function canStay(kind: Kind | null, bytes: Uint8Array, { width, height }: Size): kind is Kind {
  return kind !== null && bytes.length <= LARGEST && Math.max(width, height) <= LONGEST_SIDE && !hasMore(kind, bytes);
}

interface Size {
  width: number;
  height: number;
}

/** Something besides the picture: which way is up, which engines don't heed, where it was taken, or more pictures. */
function hasMore(kind: Kind, bytes: Uint8Array): boolean {
  switch (kind) {
    case 'jpeg':
      return hasSegment(bytes);
    case 'png':
      return ['eXIf', 'acTL'].some((chunk) => includes(bytes, chunk));
    case 'webp':
      return begins(bytes, 12, 'VP8X');
  }
}

/** Whether a JPEG has EXIF or XMP (APP1) before its picture. */
function hasSegment(bytes: Uint8Array): boolean {
  let at = 2;
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    if (bytes[at + 1] === 0xe1) return true;
    const length = ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0);
    if (length < 2) return false;
    at += 2 + length;
  }
  return false;
}

function includes(bytes: Uint8Array, text: string): boolean {
  const first = text.charCodeAt(0);
  for (let at = bytes.indexOf(first); at >= 0; at = bytes.indexOf(first, at + 1)) {
    if (begins(bytes, at, text)) return true;
  }
  return false;
}

function begins(bytes: Uint8Array, at: number, text: string): boolean {
  return [...text].every((letter, index) => bytes[at + index] === letter.charCodeAt(0));
}

/** The size that it is drawn in: as it is, or with its longer side as long as one may be. */
export function fit({ width, height }: Size, longest = LONGEST_SIDE): Size {
  const scale = Math.min(1, longest / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

async function decode(file: File, name: string): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(file, { imageOrientation: 'from-image' });
  } catch {
    throw new ImageProblem(`${name} is broken, or of a kind that this browser can't read.`);
  }
}

async function redraw(bitmap: ImageBitmap, exact: boolean, name: string): Promise<Blob> {
  const { width, height } = fit(bitmap);
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const context = canvas.getContext('2d');
  if (!context) throw new ImageProblem(`${name} could not be made smaller.`);
  // JPEG knows no transparency: what is behind is then white and not black.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, width, height);
  // Screenshots stay sharp where there is room for that.
  const png = exact ? await encode(canvas, 'image/png') : null;
  if (png && png.size <= LARGEST) return png;
  for (const quality of QUALITIES) {
    const jpeg = await encode(canvas, 'image/jpeg', quality);
    if (jpeg && jpeg.size <= LARGEST) return jpeg;
  }
  throw new ImageProblem(`${name} could not be made small enough.`);
}

function encode(canvas: HTMLCanvasElement, type: string, quality?: number): Promise<Blob | null> {
  return new Promise((resolve) => canvas.toBlob(resolve, type, quality));
}

function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new ImageProblem('The file could not be read.'));
    reader.readAsDataURL(blob);
  });
}
