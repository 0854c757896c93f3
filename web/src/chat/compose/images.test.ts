import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { attach, NO_IMAGES } from './attaching';
import { canStay, fit, kindOf, LARGEST, LARGEST_FILE, prepareImage } from './images';

const bytesOf = (...parts: (string | number[])[]): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === 'string' ? [...part].map((c) => c.charCodeAt(0)) : part)));

const PNG = bytesOf('\x89PNG\r\n\x1a\n', '\0\0\0\rIHDR');
const JPEG = bytesOf('\xff\xd8', '\xff\xe0\x00\x04JF', '\xff\xda rest');
const TURNED = bytesOf('\xff\xd8', '\xff\xe0\x00\x04JF', '\xff\xe1\x00\x08Exif\0\0', '\xff\xda rest');
const WEBP = bytesOf('RIFF', [0, 0, 0, 0], 'WEBPVP8 ');
const WEBP_MORE = bytesOf('RIFF', [0, 0, 0, 0], 'WEBPVP8X');
const SMALL = { width: 100, height: 50 };

it.each([
  [{ width: 100, height: 50 }, 100, 50],
  [{ width: 3072, height: 1536 }, 1536, 768],
  [{ width: 1000, height: 10_000 }, 154, 1536],
  [{ width: 1, height: 100_000 }, 1, 1536],
])('%j is drawn as %d x %d', (size, width, height) => {
  expect(fit(size)).toEqual({ width, height });
});

it.each([
  [PNG, 'png'],
  [JPEG, 'jpeg'],
  [WEBP, 'webp'],
  [bytesOf('GIF89a'), null],
  [bytesOf('RIFF', [0, 0, 0, 0], 'WAVE'), null],
  [bytesOf('<svg>'), null],
  [bytesOf(), null],
])('%j is %s', (bytes, kind) => {
  expect(kindOf(bytes)).toBe(kind);
});

it.each([
  ['a small PNG', PNG, SMALL, true],
  ['a PNG that is turned', bytesOf('\x89PNG\r\n\x1a\n', '....eXIf'), SMALL, false],
  ['an animated PNG', bytesOf('\x89PNG\r\n\x1a\n', '....acTL'), SMALL, false],
  ['a wide PNG', PNG, { width: 1537, height: 1 }, false],
  ['a heavy PNG', bytesOf('\x89PNG\r\n\x1a\n', new Array<number>(LARGEST).fill(0)), SMALL, false],
  ['a JPEG', JPEG, SMALL, true],
  ['a JPEG of a camera', TURNED, SMALL, false],
  ['a JPEG that is cut off', bytesOf('\xff\xd8\xff'), SMALL, true],
  ['a WebP', WEBP, SMALL, true],
  ['a WebP with more than a picture', WEBP_MORE, SMALL, false],
  ['a GIF', bytesOf('GIF89a'), SMALL, false],
])('%s may stay as it is, or not', (_, bytes, size, stays) => {
  expect(canStay(kindOf(bytes), bytes, size)).toBe(stays);
});

describe('preparing', () => {
  let size: { width: number; height: number };
  /** Bytes that the canvas gives by type and quality. */
  let weigh: (type: string, quality?: number) => number;
  let drawn: string[];
  const close = vi.fn();

  beforeEach(() => {
    size = SMALL;
    drawn = [];
    weigh = () => 10;
    close.mockClear();
    vi.stubGlobal('createImageBitmap', async (file: Blob) => {
      if (file.size === 3) throw new DOMException('broken', 'InvalidStateError');
      return { ...size, close };
    });
    vi.spyOn(HTMLCanvasElement.prototype, 'getContext').mockReturnValue({
      fillRect: () => drawn.push('white'),
      drawImage: (_: unknown, ...box: number[]) => drawn.push(box.join(' ')),
    } as unknown as CanvasRenderingContext2D as never);
    vi.spyOn(HTMLCanvasElement.prototype, 'toBlob').mockImplementation((done, type = '', quality) => {
      drawn.push(`${type} ${quality ?? ''}`.trim());
      done(new Blob([new Uint8Array(weigh(type, quality))], { type }));
    });
  });

  afterEach(() => {
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
  });

  it('leaves a small image as it is, whatever its name says', async () => {
    const image = await prepareImage(new File([PNG], 'a.jpg', { type: 'image/jpeg' }));
    expect(image).toMatchObject({ name: 'a.jpg', url: `data:image/png;base64,${btoa(String.fromCharCode(...PNG))}` });
    expect(drawn).toEqual([]);
    expect(close).toHaveBeenCalledOnce();
  });

  it('draws a photo of a camera anew', async () => {
    size = { width: 4000, height: 3000 };
    const image = await prepareImage(new File([TURNED], 'a.jpg'));
    expect(drawn).toEqual(['white', '0 0 1536 1152', 'image/jpeg 0.9']);
    expect(image.url).toMatch(/^data:image\/jpeg;base64,/);
  });

  it('keeps a screenshot a PNG where that is small enough, else not', async () => {
    size = { width: 2000, height: 2000 };
    expect((await prepareImage(new File([PNG], 'a.png'))).url).toMatch(/^data:image\/png/);
    weigh = (type, quality) => (type === 'image/png' || quality! > 0.7 ? LARGEST + 1 : 10);
    expect((await prepareImage(new File([PNG], 'a.png'))).url).toMatch(/^data:image\/jpeg/);
    expect(drawn.at(-1)).toBe('image/jpeg 0.65');
  });

  it('says what it can not take', async () => {
    const broken = new File(['abc'], 'b.png', { type: 'image/png' });
    await expect(prepareImage(broken)).rejects.toThrow("b.png is broken, or of a kind that this browser can't read.");
    const huge = Object.defineProperty(new File([PNG], 'h.png'), 'size', { value: LARGEST_FILE + 1 });
    await expect(prepareImage(huge)).rejects.toThrow('h.png is too large.');
    size = { width: 9000, height: 9000 };
    weigh = () => LARGEST + 1;
    await expect(prepareImage(new File([PNG], 'n.png'))).rejects.toThrow('n.png could not be made small enough.');
    expect(close).toHaveBeenCalledOnce();
  });

  it('takes of several files what it can, and tells of the rest', async () => {
    const image = (name: string): File => new File([PNG], name, { type: 'image/png' });
    const files = [
      image('1'),
      new File(['abc'], 'b', { type: 'image/png' }),
      new File(['x'], 'x.md'),
      image('2'),
      image('3'),
    ];
    const { images, texts, problems } = await attach(files, 2);
    expect(images.map(({ name }) => name)).toEqual(['1', '2']);
    expect(texts).toEqual(['x.md:\n```md\nx\n```\n']);
    expect(problems).toHaveLength(2);
    expect((await attach([image('1'), image('2')], null)).problems).toEqual([NO_IMAGES]);
    expect((await attach([image('1')], 0)).problems).toEqual(['A message may have 8 images.']);
  });
});
