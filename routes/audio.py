"""Speech to text, by way of a chat about a sound, and text to speech, of engines that can do it."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field

from manager.engines import UpstreamRequest
from manager.engines.kinds import BUILT_IN, check_supported
from manager.entry import ModelEntry
from manager.errors import EndpointUnsupported, InvalidRequest
from manager.media_kinds import TELLING, is_kind
from routes import sse
from routes.body import read_object
from routes.form import Form
from routes.multipart import Upload, read_upload
from routes.named import named_model
from routes.openai import chat, takes_media
from routes.parsing import RequestBody, parse
from routes.passing import pass_on, passed_headers
from routes.schema.answer import example

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
SPEECH: Final = "/v1/audio/speech"
INSTRUCTION: Final = "Write down what is said here, word for word, and nothing else."
FORMATS: Final = ("json", "text")
_NUMBERS: Final[dict[str, Callable[[str], float]]] = {"temperature": float, "max_tokens": int, "seed": int}
_KNOWN: Final = frozenset({"file", "model", "language", "prompt", "response_format", "stream", *_NUMBERS})
_IGNORED: Final = frozenset({"user"})


class SpeechBody(RequestBody):
    """A text to be spoken."""

    model_config = ConfigDict(json_schema_extra=example(input="Hello.", voice="alloy"))

    model: str | None = None
    input: str = Field(min_length=1, description="The text.")
    voice: str | dict[str, Any] | None = Field(None, description="Who speaks, by the engine's names.")
    response_format: str | None = Field(None, description="The format of the sound (`mp3`, `wav`, …).")
    speed: float | None = Field(None, gt=0, description="1 is the usual one.")


async def transcriptions(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/transcriptions: what is said in a sound, the `file` of a form. With `stream` as events."""
    upload = await read_upload(request)
    entry = named_model(request, {"model": upload.text("model")}).entry
    check_supported(entry, TRANSCRIPTIONS)
    if entry.engine not in BUILT_IN:
        headers = passed_headers(request)
        return await pass_on(request, entry, UpstreamRequest("POST", TRANSCRIPTIONS, upload.raw, headers))
    check_hears(entry)
    body, wanted = as_chat(upload)
    response = await chat(request, body, form=Form(finish=_whole, reframe=partial(_events, model=entry.name)))
    if wanted == "text" and isinstance(response, web.Response):
        return web.Response(text=orjson.loads(response.text or "")["text"])
    return response


async def speech(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/speech: a sound that speaks `input`, as the engine makes it. No built-in engine can."""
    raw, body = await read_object(request)
    entry = named_model(request, body).entry
    parse(SpeechBody, body)
    check_supported(entry, SPEECH)
    return await pass_on(request, entry, UpstreamRequest("POST", SPEECH, raw, passed_headers(request)))


def check_hears(entry: ModelEntry) -> None:
    """Raises EndpointUnsupported for a GGUF model without a projector. Whether that hears shows when it is loaded."""
    if not takes_media(entry):
        raise EndpointUnsupported(f"The model '{entry.name}' hears nothing (it has no mmproj).", param="model")


def as_chat(upload: Upload) -> tuple[dict[str, Any], str]:
    """The chat that asks for a transcription, and the form of the answer. Raises InvalidRequest naming the field."""
    for name in upload.fields.keys() - _KNOWN - _IGNORED:
        raise InvalidRequest(f"'{name}' is not supported.", param=name)
    sound = upload.fields.get("file")
    if sound is None:
        raise InvalidRequest("'file' is missing: the sound to write down.", param="file")
    if not is_kind("audio", sound[:TELLING]):
        raise InvalidRequest("'file' must be a WAV, MP3 or FLAC sound.", param="file")
    wanted = upload.text("response_format") or "json"
    if wanted not in FORMATS:
        raise InvalidRequest(f"'response_format' must be one of {', '.join(FORMATS)}.", param="response_format")
    text = upload.text("prompt") or INSTRUCTION
    if language := upload.text("language"):
        text += f" (language: {language})"
    data = b64encode(sound).decode()
    parts = [{"type": "text", "text": text}, {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": parts}], **_numbers(upload)}
    if model := upload.text("model"):
        body["model"] = model
    if _streams(upload):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body, wanted


def _numbers(upload: Upload) -> dict[str, float]:
    """What a chat knows as numbers; in a form everything is a text."""
    numbers: dict[str, float] = {}
    for name, read in _NUMBERS.items():
        if text := upload.text(name):
            try:
                number = read(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise InvalidRequest(f"'{name}' must be a number.", param=name)
            numbers[name] = number
    return numbers


def _streams(upload: Upload) -> bool:
    word = (upload.text("stream") or "false").lower()
    if word not in {"true", "false"}:
        raise InvalidRequest("'stream' must be true or false.", param="stream")
    return word == "true"


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    text = answer["choices"][0]["message"].get("content") or ""
    return {"text": text, **_usage(answer.get("usage"))}


def _usage(usage: dict[str, Any] | None) -> dict[str, Any]:
    if not usage:
        return {}
    read, written = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    counts = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"usage": {"type": "tokens", **counts}}


async def _events(chunks: AsyncIterator[bytes], model: str) -> AsyncIterator[bytes]:
    """The events of a transcription, out of those of a chat."""
    text, usage = "", None
    async for chunk in sse.chunks_of(chunks, model):
        usage = chunk.get("usage") or usage
        choices = chunk.get("choices")
        if choices and (delta := choices[0]["delta"].get("content")):
            text += delta
            yield sse.data_frame({"type": "transcript.text.delta", "delta": delta})
    yield sse.data_frame({"type": "transcript.text.done", "text": text, **_usage(usage)})
