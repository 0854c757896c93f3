"""Images, sounds and films of a request: they come within it, or are fetched here. No engine opens a URL or a path."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from manager.entry import ModelEntry
from manager.errors import InvalidRequest
from manager.media_kinds import TELLING, is_kind
from manager.remote_images import ImageRefused, RemoteImages, Room
from manager.service import SERVICE
from routes.callers import KEY

# What a part of this type is, and the fields of it in which llama.cpp looks for it. Only a model with a projector
# takes these.
MEDIA: Final = {
    "image_url": ("image", ("url",)),
    "input_audio": ("audio", ("data", "url")),
    "input_video": ("video", ("data", "url")),
    "video_url": ("video", ("data", "url")),
}
# Of all kinds together, in one request.
MOST_MEDIA: Final = 256
# Characters of base64 that are checked in one go, between which others get their turn.
CHECKED_AT_ONCE: Final = 1024 * 1024
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


@dataclass(frozen=True)
class Settled:
    """What is left to do for the media of a request."""

    changed: bool  # the body must be written anew
    remote: Sequence[tuple[str, dict[str, Any]]]  # fields with URLs, and what holds these


async def settle_media(images: RemoteImages | None, body: dict[str, Any]) -> Settled:
    """Hold the media in the checked messages of `body` to data within it, or with `images` to what these fetch.

    Nothing is fetched yet. Raises InvalidRequest that names the field.
    """
    changed = False
    remote: list[tuple[str, dict[str, Any]]] = []
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
            if images is not None and kind == "image_url" and isinstance(value, str) and value.startswith("https:"):
                remote.append((field, holder))
                _check_remote(images, value, field, len(remote))
            else:
                await _check(value, media, field, bare=name == "data")
    return Settled(changed or bool(remote), remote)


async def check_prompt(_: ModelEntry, body: dict[str, Any]) -> None:
    """Hold llama.cpp's prompts with media, `{"prompt_string", "multimodal_data"}`, to what engines take.

    Raises InvalidRequest that names the field.
    """
    prompt, count = body.get("prompt"), 0
    for number, one in enumerate(prompt if isinstance(prompt, list) else [prompt]):
        if isinstance(one, dict) and one.get("multimodal_data") is not None:
            place = f"prompt[{number}]" if isinstance(prompt, list) else "prompt"
            field = f"{place}.multimodal_data"
            if not isinstance(one["multimodal_data"], list):
                raise _refused(field, "must be an array of strings of base64")
            count += len(one["multimodal_data"])
            if count > MOST_MEDIA:
                raise _refused(field, f"is too long: a request has at most {MOST_MEDIA} images and sounds")
            for index, data in enumerate(one["multimodal_data"]):
                head = await _first_bytes(data, 0) if isinstance(data, str) else None
                if head is None or not (is_kind("image", head) or is_kind("audio", head)):
                    raise _refused(f"{field}[{index}]", f"must be base64 of {_KINDS['image']}, or {_KINDS['audio']}")


def _parts(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts with media, each with its place."""
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            for number, part in enumerate(content):
                if part["type"] in MEDIA:
                    yield f"messages[{index}].content[{number}]", part


async def _check(value: Any, media: str, field: str, *, bare: bool) -> None:
    """A data URL of this medium, or with `bare` its base64 alone."""
    head = _HEADS[media].match(value, 0, _LONGEST_HEAD) if isinstance(value, str) else None
    if head is None and not (bare and isinstance(value, str) and not value.startswith("data:")):
        form = f"a data URL (data:{media}/…;base64,…, in small letters)"
        raise _refused(field, f"must be {'base64 or ' if bare else ''}{form}: nothing is fetched from elsewhere")
    first = await _first_bytes(value, head.end() if head else 0)
    if first is None:
        raise _refused(field, "must be base64 to its end, padded and without line breaks")
    if not is_kind(media, first):
        raise _refused(field, f"must be base64 of {_KINDS[media]}")


async def _first_bytes(text: str, start: int) -> bytes | None:
    """What the base64 from `start` on begins with; None where that is no base64."""
    if (len(text) - start) % 4:
        return None
    end = len(text) - (2 if text.endswith("==") else text.endswith("="))
    for at in range(start, end, CHECKED_AT_ONCE):
        # A lone surrogate becomes no base64.
        if text[at : min(at + CHECKED_AT_ONCE, end)].encode(errors="replace").translate(None, _BASE64):
            return None
        await asyncio.sleep(0)
    return binascii.a2b_base64(text[start : start + (TELLING + 2) // 3 * 4])


def _check_remote(images: RemoteImages, url: str, field: str, number: int) -> None:
    most = images.settings.most
    if number > most:
        raise _refused(field, f"is one image too many: at most {most} of a request are fetched")
    try:
        images.check(url)
    except ImageRefused as refusal:
        raise _refused(field, refusal.tells) from None


async def fetch_images(request: web.Request, remote: Sequence[tuple[str, dict[str, Any]]], length: int) -> None:
    """Put a data URL in the place of each URL. All are fetched at the same time, and each URL once.

    With them a request of this `length` must not be longer than server.max_body. Raises InvalidRequest that names the
    field.
    """
    service, key = request.app[SERVICE], request.get(KEY)
    assert service.remote_images is not None  # noqa: S101  whose settings let `remote` be
    images, room = service.remote_images, Room(service.settings.server.max_body - length)
    holders: dict[str, list[dict[str, Any]]] = {}
    first: dict[str, str] = {}  # the field that names a URL first
    for field, holder in remote:
        first.setdefault(holder["url"], field)
        holders.setdefault(holder["url"], []).append(holder)

    async def get(url: str) -> None:
        try:
            data_url = await images.fetch(url, room, times=len(holders[url]), key=key.id if key else None)
        except ImageRefused:
            raise _refused(first[url], _not_fetched(images)) from None
        written = orjson.Fragment(f'"{data_url}"')  # to look for what must be escaped in it would take long
        for holder in holders[url]:
            holder["url"] = written

    try:
        async with asyncio.TaskGroup() as group:
            for url in holders:
                group.create_task(get(url))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _not_fetched(images: RemoteImages) -> str:
    # The same for every reason: it must not tell what there is in the networks around this machine.
    limits = images.settings
    return (
        f"can't be fetched: it must lead to {_KINDS['image']} of at most {limits.max_size:,} bytes on the public "
        f"internet, within {limits.timeout:g} seconds"
    )


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' {why}.", param=field)
