"""From the images of a chat to what a vision model takes: data URLs, decoded within limits, made into tensors."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageOps

from manager.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

    from manager.engines.hf.loading.load import LoadedModel

# A processor's and a tokenizer's names of them, such as image_token, boi_token or global_image_tag.
_MARK: Final = re.compile(r"(?:.*_)?(?:image|img|video|vision|audio|bo[iav]|eo[iav]|tile)(?:_.*)?_(?:token|tag)")
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class Limits:
    """Most images of a request, most pixels of all of them, and most bytes of one, as it is in its file."""

    images: int = 16
    pixels: int = 64_000_000
    bytes: int = 20 * 1024 * 1024


LIMITS: Final = Limits()
_TOO_MANY: Final = f"has too many pixels: all images of a request may have {LIMITS.pixels:,} together"

# Pillow's own limit is higher than ours; what passes it is an error, too, and no line on standard error.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def take_images(
    loaded: LoadedModel, messages: Sequence[Mapping[str, Any]], limits: Limits = LIMITS
) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """The messages with `{"type": "image"}` for each `image_url` part, as templates know it, and the images in order.

    Blocks while it decodes. Raises InvalidRequest naming the part that the model does not take, or that is no image
    within the limits. A part's `detail` changes nothing. What stands for an image in a prompt is split where a text has
    it, so that it stays a text.
    """
    marks = _marks(loaded) if loaded.kind == "vision" else ()
    left: list[dict[str, Any]] = []
    images: list[Image.Image] = []
    pixels = limits.pixels
    for number, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, list):
            left.append({name: _split(value, marks) for name, value in message.items()})
            continue
        parts = []
        for place, part in enumerate(content):
            kind = part.get("type")
            if kind == "text":
                parts.append({**part, "text": _split(part.get("text"), marks)})
                continue
            where = f"messages[{number}].content[{place}]"
            if kind != "image_url" or loaded.kind != "vision":
                takes = "texts and images" if loaded.kind == "vision" else "text"
                raise InvalidRequest(f"'{where}': this model takes {takes} only, no '{kind}'.", param=where)
            if len(images) == limits.images:
                raise _refused(where, f"is one image more than the {limits.images} that a request may have")
            images.append(_decoded(_bytes_of(part, where, limits.bytes), where, pixels))
            pixels -= images[-1].width * images[-1].height
            parts.append({"type": "image"})
        left.append({**{name: _split(value, marks) for name, value in message.items()}, "content": parts})
    return left, images


def _marks(loaded: LoadedModel) -> tuple[str, ...]:
    """The texts that stand for images, or around them, in the prompts of this model."""
    named = {**vars(loaded.processor), **loaded.tokenizer.special_tokens_map}
    texts = {getattr(token, "content", token) for name, token in named.items() if _MARK.fullmatch(name)}
    return tuple(text for text in texts if isinstance(text, str) and len(text) > 1)


def _split(value: Any, marks: Sequence[str]) -> Any:
    if isinstance(value, str):
        for mark in marks:
            value = value.replace(mark, f"{mark[0]} {mark[1:]}")
    return value


def prepare(
    loaded: LoadedModel, prompt: str | Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
) -> tuple[tuple[int, ...], dict[str, torch.Tensor]]:
    """Tokens of the prompt with those of its images in their places, and the tensors for the model's forward.

    `prompt` is what the template made, or messages for it, with one place per image. The tensors lie on the host;
    those with a number per token (`mm_token_type_ids` and the like) are [1, tokens]. Blocks. Raises InvalidRequest.
    """
    if loaded.kind != "vision":
        raise InvalidRequest("This model takes no images.", param="messages")
    processor = loaded.processor
    if isinstance(prompt, str):
        text = prompt
    else:
        text = processor.apply_chat_template(
            list(prompt), chat_template=loaded.template, add_generation_prompt=True, tokenize=False
        )
    start = loaded.tokenizer.bos_token
    try:
        made = processor(
            text=text,
            images=list(images) or None,
            return_tensors="pt",
            add_special_tokens=not (start and text.startswith(start)),
        )
    except (ValueError, IndexError) as error:
        # Such as the mark of an image in the description of a tool.
        raise InvalidRequest(f"The images don't fit the prompt: {error}", param="messages") from None
    tokens = tuple(made.pop("input_ids")[0].tolist())
    made.pop("attention_mask", None)
    return tokens, dict(made)


def _bytes_of(part: Mapping[str, Any], where: str, most: int) -> bytes:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise _refused(where, "has no image_url.url")
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise _refused(where, "must be a data URL (data:image/png;base64,…): images are not fetched from elsewhere")
    if len(data) > (most + 2) // 3 * 4:
        raise _refused(where, f"is larger than {most:,} bytes")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _refused(where, "is not base64") from None


def _decoded(data: bytes, where: str, pixels: int) -> Image.Image:
    """The (first) image in RGB, the right way up."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:  # reads the head only
            if image.width * image.height > pixels:
                raise _refused(where, _TOO_MANY)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would cut off what is above 255
                upright = upright.point(lambda value: value / 256, "L")
            return upright.convert("RGB")
    except (InvalidRequest, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _refused(where, _TOO_MANY) from None
    except Exception:  # each format has its own errors for broken files
        raise _refused(where, f"is no image that can be read ({', '.join(_FORMATS)})") from None


def _refused(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}' {why}.", param=where)
