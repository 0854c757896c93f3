"""What a picture, sound or film is by its first bytes: nothing else gets to the programs that decode them."""

from __future__ import annotations

import re
from typing import Final

# So many first bytes tell the kind.
TELLING: Final = 24
# Those that both engines read. A PNG begins with its size, a BMP has one of the known sizes of a header.
_IMAGE: Final = re.compile(
    rb"(?P<png>\x89PNG\r\n\x1a\n\0\0\0\rIHDR)|(?P<jpeg>\xff\xd8\xff)|(?P<webp>RIFF.{4}WEBPVP8[ LX])|(?P<gif>GIF8[79]a)"
    rb"|(?P<bmp>BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0)",
    re.DOTALL,
)
# WAV, MP3 and FLAC: what llama.cpp takes for audio.
_AUDIO: Final = re.compile(rb"RIFF.{4}WAVE|ID3|\xff[\xe0-\xff]|fLaC", re.DOTALL)
# MP4 and its kin, WebM and Matroska, AVI.
_VIDEO: Final = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", re.DOTALL)


def image_kind(head: bytes | bytearray) -> str | None:
    """The subtype of `image/` whose files begin with `head`: png, jpeg, webp, gif or bmp; None for anything else."""
    found = _IMAGE.match(head)
    return found.lastgroup if found else None


def is_kind(media: str, head: bytes) -> bool:
    """Whether a file that begins with `head` is an `image`, `audio` or `video` that engines take."""
    return {"image": _IMAGE, "audio": _AUDIO, "video": _VIDEO}[media].match(head) is not None
