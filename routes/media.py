"""Images, sounds and films of a request: they come within it, or are fetched here. No engine opens a URL or a path."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Iterator
from typing import Any, Final

from manager.entry import ModelEntry
from manager.errors import InvalidRequest
from manager.media_kinds import TELLING, is_kind
from manager.remote_images import ImageRefused, RemoteImages, Room
from manager.service import Service

# What a part of this type is, and the fields of it in which llama.cpp looks for it. Only a model with a projector
# takes these.
MEDIA: Final = {
    "image_url": ("image", ("url",)),
    "input_audio": ("audio", ("data", "url")),
    "input_video": ("video", ("data", "url")),
    "video_url": ("video", ("data", "url")),
}
_HEADS: Final = {
    media: re.compile(rf"data:{media}/[A-Za-z0-9][A-Za-z0-9.+-]*;base64,") for media in ("image", "audio", "video")
}
_LONGEST_HEAD: Final = 128
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_KINDS: Final = {
    "image": "a PNG, JPEG, WebP, GIF or BMP image",
    "audio": "a WAV, MP3 or FLAC sound",
    "video": "an MP4, WebM, Matroska or AVI film",
}


async def settle_images(service: Service, body: dict[str, Any]) -> bool:
    """Hold the media in the checked messages of `body` to data within it, and put fetched images in the place of URLs.

    Whether `body` was changed. Raises InvalidRequest that names the field.
    """
    changed = False
    remote: list[tuple[str, dict[str, Any]]] = []  # where, and what holds the URL
    for place, part in _parts(body["messages"]):
        kind = part["type"]
        media, names = MEDIA[kind]
        holder: Any = part.get(kind)
        if kind == "image_url" and isinstance(holder, str):  # as some clients write it; llama.cpp wants an object
            holder = part[kind] = {"url": holder}
            changed = True
        given = [name for name in names if holder.get(name) is not None] if isinstance(holder, dict) else []
        if not given:
            raise _refused(f"{place}.{kind}", f"must be an object with '{names[0]}'")
        for name in given:
            field, value = f"{place}.{kind}.{name}", holder[name]
            if kind == "image_url" and service.remote_images and isinstance(value, str) and value.startswith("https:"):
                remote.append((field, holder))
            else:
                _check(value, media, field, bare=name == "data")
    if remote and service.remote_images:
        await _fetch(service.remote_images, remote, service.settings.server.max_body)
    return changed or bool(remote)


def check_prompt(_: ModelEntry, body: dict[str, Any]) -> None:
    """Hold llama.cpp's prompts with media, `{"prompt_string", "multimodal_data"}`, to what engines take.

    Raises InvalidRequest that names the field.
    """
    prompt = body.get("prompt")
    for number, one in enumerate(prompt if isinstance(prompt, list) else [prompt]):
        if isinstance(one, dict) and one.get("multimodal_data") is not None:
            place = f"prompt[{number}]" if isinstance(prompt, list) else "prompt"
            field = f"{place}.multimodal_data"
            if not isinstance(one["multimodal_data"], list):
                raise _refused(field, "must be an array of strings of base64")
            for index, data in enumerate(one["multimodal_data"]):
                if not isinstance(data, str) or not any(_is(data, 0, media) for media in ("image", "audio")):
                    raise _refused(f"{field}[{index}]", f"must be base64 of {_KINDS['image']}, or {_KINDS['audio']}")


def _parts(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts with media, each with its place."""
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            for number, part in enumerate(content):
                if part["type"] in MEDIA:
                    yield f"messages[{index}].content[{number}]", part


def _check(value: Any, media: str, field: str, *, bare: bool) -> None:
    """A data URL of this medium, or with `bare` its base64 alone."""
    head = _HEADS[media].match(value, 0, _LONGEST_HEAD) if isinstance(value, str) else None
    if head is None and not (bare and isinstance(value, str) and not value.startswith("data:")):
        other = f"base64 or a data URL (data:{media}/…;base64,…)" if bare else f"a data URL (data:{media}/…;base64,…)"
        raise _refused(field, f"must be {other}: nothing is fetched from elsewhere")
    if not _is(value, head.end() if head else 0, media):
        raise _refused(field, f"must be base64 of {_KINDS[media]}")


def _is(text: str, start: int, media: str) -> bool:
    """Whether what begins at `start` is base64 of this medium."""
    data = text[start:].encode(errors="replace")  # a lone surrogate becomes no base64
    whole, padding = data.rstrip(b"="), len(data)
    if len(data) % 4 or padding - len(whole) > 2 or whole.translate(None, _BASE64):
        return False
    return is_kind(media, binascii.a2b_base64(data[: (TELLING + 2) // 3 * 4]))


async def _fetch(images: RemoteImages, wanted: list[tuple[str, dict[str, Any]]], most_bytes: int) -> None:
    """Put a data URL in the place of each URL. All are fetched at the same time, and each URL once."""
    first: dict[str, str] = {}  # the field that names a URL first, by the URL
    for field, holder in wanted:
        first.setdefault(holder["url"], field)
    if len(first) > images.settings.most:
        raise _refused(wanted[-1][0], f"is one image too many: at most {images.settings.most} of a request are fetched")
    room = Room(most_bytes)

    async def get(url: str, field: str) -> str:
        try:
            return await images.fetch(url, room)
        except ImageRefused as refusal:
            raise _refused(field, refusal.tells or _not_fetched(images)) from None

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {url: group.create_task(get(url, field)) for url, field in first.items()}
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    for _, holder in wanted:
        holder["url"] = tasks[holder["url"]].result()


def _not_fetched(images: RemoteImages) -> str:
    # The same for every reason: it must not tell what there is in the networks around this machine.
    limits = images.settings
    return (
        f"can't be fetched: it must lead to {_KINDS['image']} of at most {limits.max_size:,} bytes on the public "
        f"internet, within {limits.timeout:g} seconds"
    )


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' {why}.", param=field)
