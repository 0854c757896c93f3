"""Speech to text, by way of a chat about a sound, and text to speech."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from manager.engines import UpstreamRequest, UpstreamResponse
from manager.engines.kinds import KINDS, EngineKind
from manager.engines.simple import SIMPLE_PATHS, Body, SimpleEngine
from manager.errors import UpstreamClosed
from manager.params import ModelParams
from routes.audio import INSTRUCTION, SPEECH, TRANSCRIPTIONS
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd
from tests.routes.stage import EMPTY_GGUF, Fake, Stage

WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\0\0\0\0"
BOUNDARY = "x"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(fields: Mapping[str, Any]) -> bytes:
    """A form; bytes are files."""
    parts = []
    for name, value in fields.items():
        file = isinstance(value, bytes)
        head = f'Content-Disposition: form-data; name="{name}"' + ('; filename="a.wav"' if file else "")
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + (value if file else str(value).encode()) + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def ear(stage: Stage) -> Fake:
    """The fake of the model "ear", which has a projector; its answer to a sound is what it was asked."""
    (stage.data / "models" / "projector.gguf").write_bytes(EMPTY_GGUF)
    return stage.model("ear", params={"mmproj": "projector.gguf"})


@pytest.fixture
async def hearing(ear: Fake, start_herd: StartHerd) -> Herd:
    return await start_herd()


async def transcribe(herd: Herd, **fields: Any) -> Answer:
    return await herd.post(TRANSCRIPTIONS, raw=form({"file": WAV, **fields}), headers=HEADERS)


async def test_a_sound_becomes_a_chat_and_its_answer_the_text(hearing: Herd, ear: Fake) -> None:
    answer = await transcribe(hearing, model="ear", temperature="0.5", max_tokens="99", seed="7", user="me")
    assert (answer.status, answer.json["text"]) == (200, f"{INSTRUCTION} <image>")
    assert answer.json["usage"]["type"] == "tokens"
    assert answer.json["usage"]["output_tokens"] == len(INSTRUCTION.split()) + 1
    sound = {"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}}
    assert ear.requests()[0]["body"] == {
        "model": "ear",
        "messages": [{"role": "user", "content": [{"type": "text", "text": INSTRUCTION}, sound]}],
        "temperature": 0.5,
        "max_tokens": 99,
        "seed": 7,
    }


async def test_prompt_and_language_are_told_and_a_text_is_wanted(hearing: Herd) -> None:
    answer = await transcribe(hearing, prompt="Listen.", language="de", response_format="text")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.body == b"Listen. (language: de) <image>"


async def test_a_transcription_is_streamed_as_events(hearing: Herd) -> None:
    answer = await transcribe(hearing, prompt="a b", stream="true")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = [json.loads(frame.removeprefix(b"data: ")) for frame in answer.body.split(b"\n\n") if frame]
    assert [event.get("delta") for event in events] == ["a", " b", " <image>", None]
    done = events[-1]
    assert (done["type"], done["text"]) == ("transcript.text.done", "a b <image>")
    assert done["usage"]["output_tokens"] == 3


async def test_an_error_within_a_stream_is_its_last_event(stage: Stage, ear: Fake, start_herd: StartHerd) -> None:
    ear.knobs(error_stream_after=1)
    answer = await transcribe(await start_herd(), prompt="a b", stream="true")
    *_, last, _ = answer.body.split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["message"] == "the fake failed"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"file": "text"}, "file"),
    ({"file": b"#EXTM3U\nhttp://127.0.0.1/x.ts\n"}, "file"),
    ({"file": b""}, "file"),
    ({"response_format": "srt"}, "response_format"),
    ({"response_format": "verbose_json"}, "response_format"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": "nan"}, "temperature"),
    ({"temperature": "-1"}, "temperature"),
    ({"max_tokens": "1.5"}, "max_tokens"),
    ({"stream": "maybe"}, "stream"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
    ({"language": b"\xff"}, "language"),
]


async def test_bad_forms_are_400s_that_name_the_field(hearing: Herd, ear: Fake) -> None:
    for fields, param in BAD:
        answer = await transcribe(hearing, **fields)
        assert (answer.status, answer.error["param"]) == (400, param), fields
    missing = await hearing.post(TRANSCRIPTIONS, raw=form({"model": "ear"}), headers=HEADERS)
    assert (missing.status, missing.error["param"]) == (400, "file")
    assert (await transcribe(hearing, model="nobody")).status == 404
    assert ear.starts() == []


TWICE = form({"model": "a"}).replace(b"--x--\r\n", b"") + form({"model": "b"})
NAMELESS = b"--x\r\nContent-Type: text/plain\r\n\r\na\r\n--x--\r\n"
NESTED = b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\na\r\n--y--\r\n--x--\r\n"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"{}", "application/json"),
        (b"", HEADERS["Content-Type"]),
        (b"nothing", HEADERS["Content-Type"]),
        (b"--x\r\nno head", HEADERS["Content-Type"]),
        (b"--x\r\n" + b"a" * 20000, HEADERS["Content-Type"]),
        (form({"file": WAV})[:-8], HEADERS["Content-Type"]),
        (form({"file": WAV}), "multipart/form-data"),
        (form({"file": WAV}), f"multipart/form-data; boundary={'y' * 80}"),
        (TWICE, HEADERS["Content-Type"]),
        (NAMELESS, HEADERS["Content-Type"]),
        (NESTED, HEADERS["Content-Type"]),
        (form({f"f{number}": 1 for number in range(70)}), HEADERS["Content-Type"]),
    ],
)
async def test_what_is_no_form_is_a_400(hearing: Herd, ear: Fake, raw: bytes, kind: str) -> None:
    answer = await hearing.post(TRANSCRIPTIONS, raw=raw, headers={"Content-Type": kind})
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert ear.starts() == []


async def test_a_form_is_held_to_the_limits_of_bodies(ear: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(server={"max_body": 4096, "body_timeout": 0.1})
    assert (await transcribe(herd, file=WAV + bytes(5000))).status == 413

    async def slowly() -> AsyncIterator[bytes]:
        yield form({"file": WAV})[:20]
        await asyncio.Event().wait()

    async with herd.open("POST", TRANSCRIPTIONS, raw=slowly(), headers=HEADERS) as response:
        assert response.status == 408


async def test_a_model_that_hears_nothing_is_not_loaded(herd: Herd, fake: Fake) -> None:
    answer = await transcribe(herd)
    assert (answer.status, answer.error["code"]) == (400, "endpoint_not_supported")
    assert "'alpha'" in answer.error["message"]
    assert fake.starts() == []


# an engine of one's own


class Voice(SimpleEngine):
    """Its speech is what it gets; told to fail it breaks off, or refuses."""

    async def load(self) -> None: ...

    def count(self, text: str) -> int:
        return len(text)

    async def answer(self, body: Body) -> AsyncGenerator[str, None]:
        yield "no chats"

    @asynccontextmanager
    async def open(self, request: UpstreamRequest) -> AsyncIterator[UpstreamResponse]:
        asked = b" ".join([request.path.encode(), json.dumps(dict(request.headers)).encode(), request.body])

        async def chunks() -> AsyncIterator[bytes]:
            yield asked
            if b"break off" in request.body:
                raise UpstreamClosed("gone")
            yield b"\xff\0"

        async def read() -> bytes:
            return b'{"error": {"message": "no such voice", "param": "voice"}}'

        status = 400 if b"nobody" in request.body else 200
        yield SimpleNamespace(status=status, content_type="audio/x-own", chunks=chunks, read=read)


@pytest.fixture
async def speaking(stage: Stage, start_herd: StartHerd, monkeypatch: pytest.MonkeyPatch) -> Herd:
    paths = SIMPLE_PATHS | {SPEECH, TRANSCRIPTIONS}
    kind = EngineKind(params=ModelParams, make=lambda entry, _: Voice(entry), paths=paths)
    monkeypatch.setitem(KINDS._known, "voice", kind)
    stage.models_file.write_text(json.dumps({"v": {"engine": "voice", "params": {"model": "v"}}}))
    return await start_herd()


async def test_an_engine_of_ones_own_that_speaks_is_handed_on_as_it_comes(speaking: Herd) -> None:
    answer = await speaking.post(SPEECH, {"input": "hi"}, headers={"Cookie": "a=b", "Accept": "audio/x-own"})
    assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/x-own")
    assert answer.body == SPEECH.encode() + b' {"Accept": "audio/x-own"} {"input": "hi"}\xff\0'
    assert answer.headers["X-Request-ID"]
    assert speaking.in_flight == 0
    refused = await speaking.post(SPEECH, {"input": "hi", "voice": "nobody"})
    assert (refused.status, refused.error["param"]) == (400, "voice")


@pytest.mark.parametrize("body", [{}, {"input": 5}, {"input": ""}])
async def test_there_must_be_something_to_say(speaking: Herd, body: dict[str, Any]) -> None:
    answer = await speaking.post(SPEECH, body)
    assert (answer.status, answer.error["param"]) == (400, "input")


async def test_an_answer_that_breaks_off_ends_its_connection(speaking: Herd) -> None:
    with pytest.raises(aiohttp.ClientError):
        await speaking.post(SPEECH, {"input": "break off"})
    assert speaking.in_flight == 0
    assert (await speaking.get("/ping")).status == 200


async def test_an_engine_of_ones_own_that_hears_gets_the_form(speaking: Herd) -> None:
    answer = await transcribe(speaking, model="v", response_format="srt")
    sent = form({"file": WAV, "model": "v", "response_format": "srt"})
    assert answer.status == 200
    assert sent in answer.body
    assert HEADERS["Content-Type"].encode() in answer.body
