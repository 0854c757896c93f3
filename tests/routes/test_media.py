"""Images, sounds and films in requests: only what is within a request, or was fetched here, gets to an engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from manager.errors import InvalidRequest
from manager.remote_images import RemoteImages
from manager.settings_sections import MediaSettings
from routes.media import CHECKED_AT_ONCE, MOST_MEDIA, check_prompt, settle_media
from tests.https_host import DATA_URL, NAME, PNG, HttpsHost, answer, https_host, redirect
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd
from tests.routes.stage import CHAT, EMPTY_GGUF, Fake, Stage

CHAT_ROUTES = (CHAT, "/chat/completions", "/apply-template")
USER = {"role": "user", "content": "hi"}
URL = "messages[2].content[1].image_url.url"
# Anything but an image within the request.
ELSEWHERE = (
    *("http://127.0.0.1/a.png", "https://example.com/a.png", "HTTP://127.0.0.1/a.png", "httpAAAA", "ftp://host/a.png"),
    *("file:///etc/passwd", "file://etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "etc/passwd", "../../etc/passwd"),
    *("//host/a.png", "gopher://host/", "blob:abc", "about:blank", "", " ", "C:\\a.png", "\\\\host\\share\\a.png"),
    *(f" {DATA_URL}", f"\t{DATA_URL}", f"\x00{DATA_URL}", f"\n{DATA_URL}", f"{DATA_URL} ", f"{DATA_URL}\n"),
    *(DATA_URL.replace("data:", "DATA:"), DATA_URL.replace("data:", "data: "), DATA_URL.replace("image", "Image")),
    *(DATA_URL.replace(";base64", ""), DATA_URL.replace(";base64", ";BASE64"), DATA_URL.replace(",", ",,")),
    *(
        DATA_URL.replace("image/", "text/"),
        DATA_URL.replace("image/", "audio/"),
        DATA_URL.replace("image/png", "image/"),
    ),
    *(DATA_URL[:-4] + "ab c", DATA_URL[:-4] + "ab-_", DATA_URL[:-4] + "abé=", DATA_URL[:-4] + "abc", DATA_URL + "===="),
    *("data:", "data:image/png;base64,", "data:image/png;base64", "data:image/png;base64,AAAA", DATA_URL[22:]),
    *("data:,http://127.0.0.1/", "data:image/png;base64,http://127.0.0.1/a.png", "data:image/png,http://127.0.0.1/"),
)
PLAYLISTS = (
    b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/x.ts\n",
    b"<MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>",
    b"v=0\nc=IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"<svg xmlns:xlink='x'><image xlink:href='file:///etc/passwd'/></svg>",
)
WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0"
MOST_BODY = 4096
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def chat(*parts: dict[str, Any]) -> dict[str, Any]:
    """A chat whose third message has a text and these parts."""
    said = [{"type": "text", "text": "what is this?"}, *parts]
    return {"messages": [USER, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": said}]}


def refused(answer: Answer, field: str) -> str:
    """What a refusal says that names this field."""
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", field)
    message: str = answer.error["message"]
    assert message.startswith(f"'{field}' ")
    return message


@pytest.fixture
def eye(stage: Stage) -> Fake:
    """The fake of the model "eye", which has a projector."""
    (stage.data / "models" / "projector.gguf").write_bytes(EMPTY_GGUF)
    return stage.model("eye", params={"mmproj": "projector.gguf"})


@pytest.fixture
async def seeing(eye: Fake, start_herd: StartHerd) -> Herd:
    return await start_herd()


@pytest.mark.parametrize("path", CHAT_ROUTES)
async def test_images_within_the_request_get_to_the_engine_as_they_came(seeing: Herd, eye: Fake, path: str) -> None:
    body = chat(image(DATA_URL), {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}})
    assert (await seeing.post(path, body)).status == 200
    reached = eye.requests(CHAT if path != "/apply-template" else path)
    assert [request["body"] for request in reached] == [body]


async def test_an_image_url_that_is_a_string_becomes_the_object_that_engines_know(seeing: Herd, eye: Fake) -> None:
    answer = await seeing.post(CHAT, chat({"type": "image_url", "image_url": DATA_URL}))
    assert answer.echo == chat(image(DATA_URL))["messages"]


@pytest.mark.parametrize("path", CHAT_ROUTES)
async def test_nothing_else_gets_to_an_engine_and_the_field_is_named(seeing: Herd, eye: Fake, path: str) -> None:
    for url in ELSEWHERE:
        refused(await seeing.post(path, chat(image(url))), URL)
        refused(await seeing.post(path, chat({"type": "image_url", "image_url": url})), URL)
    for wrong in (1, True, [DATA_URL], {"url": DATA_URL}):
        refused(await seeing.post(path, chat(image(wrong))), URL)
    nothings: tuple[Any, ...] = (None, {}, [], 1, {"url": None}, {"URL": DATA_URL})
    for nothing in nothings:
        part = {"type": "image_url", "image_url": nothing}
        refused(await seeing.post(path, chat(part)), "messages[2].content[1].image_url")
    refused(await seeing.post(path, chat({"type": "image_url"})), "messages[2].content[1].image_url")
    assert eye.starts() == []


async def test_hugging_face_models_are_held_to_the_same(stage: Stage, start_herd: StartHerd) -> None:
    folder = stage.data / "hub" / "seer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    herd = await start_herd(storage={"hf_models_dir": stage.data / "hub"})
    for url in ELSEWHERE:
        refused(await herd.post(CHAT, {"model": "seer", **chat(image(url))}), URL)


async def test_a_playlist_is_no_image_whatever_it_is_called(seeing: Herd, eye: Fake) -> None:
    """llama.cpp would give to ffmpeg what it can't read itself, and that opens the URLs and files in there."""
    for playlist in PLAYLISTS:
        data = encoded(playlist)
        refused(await seeing.post(CHAT, chat(image(f"data:image/png;base64,{data}"))), URL)
        for kind, media in (("input_audio", "audio"), ("input_video", "video"), ("video_url", "video")):
            for name, value in (("data", data), ("data", value_of(media, data)), ("url", value_of(media, data))):
                answer = await seeing.post(CHAT, chat({"type": kind, kind: {name: value}}))
                refused(answer, f"messages[2].content[1].{kind}.{name}")
        prompt = {"prompt_string": "<__media__>", "multimodal_data": [encoded(PNG), data]}
        refused(await seeing.post("/v1/completions", {"prompt": prompt}), "prompt.multimodal_data[1]")
    assert eye.starts() == []


def value_of(media: str, data: str) -> str:
    return f"data:{media}/x;base64,{data}"


@pytest.mark.parametrize(
    ("kind", "media", "data"),
    [("input_audio", "audio", WAV), ("input_video", "video", MP4), ("video_url", "video", MP4)],
)
async def test_sounds_and_films_are_data_too(seeing: Herd, eye: Fake, kind: str, media: str, data: bytes) -> None:
    good = encoded(data)
    for holder in ({"data": good, "format": "x"}, {"data": value_of(media, good)}, {"url": value_of(media, good)}):
        answer = await seeing.post(CHAT, chat({"type": kind, kind: holder}))
        assert (answer.status, answer.echo[2]["content"][1]) == (200, {"type": kind, kind: holder})
    for url in (*ELSEWHERE, value_of("image", good)):
        for name in ("data", "url"):
            # Whichever of them the engine reads: both are looked at.
            for holder in ({name: url}, {"data": good, name: url}, {"url": value_of(media, good), name: url}):
                answer = await seeing.post(CHAT, chat({"type": kind, kind: holder}))
                refused(answer, f"messages[2].content[1].{kind}.{name}")
    refused(await seeing.post(CHAT, chat({"type": kind, kind: {"url": good}})), f"messages[2].content[1].{kind}.url")
    assert len(eye.requests()) == 3


async def test_parts_of_other_types_are_refused_by_the_service_itself(seeing: Herd, eye: Fake) -> None:
    for kind in ("image", "video", "audio", "file", "input_image", "media_marker", "image_URL", ""):
        part = {"type": kind, "text": "x", "url": "http://127.0.0.1/", "image_url": {"url": "http://127.0.0.1/"}}
        refused(await seeing.post(CHAT, chat(part)), "messages[2].content[1].type")
    assert eye.starts() == []


async def test_every_role_is_held_to_it(seeing: Herd, eye: Fake) -> None:
    called = {"name": "f", "arguments": "{}"}
    calls = [{"id": "a", "type": "function", "function": called}]
    for role in ("system", "developer", "assistant", "tool", "function", "user"):
        message = {"role": role, "name": "f", "tool_call_id": "a", "content": [image("http://127.0.0.1/")]}
        before = {"tool_calls": calls} if role != "function" else {"function_call": called}
        messages = [USER, {"role": "assistant", "content": None, **before}, message]
        refused(await seeing.post(CHAT, {"messages": messages}), "messages[2].content[0].image_url.url")
    assert eye.starts() == []


async def test_prompts_with_media_hold_nothing_but_images_and_sounds(seeing: Herd, eye: Fake) -> None:
    good = {"prompt_string": "<__media__>", "multimodal_data": [encoded(PNG), encoded(WAV)]}
    entry = seeing.service.pool.find("eye")[0]
    for prompt in (good, [good], ["text", good], {"prompt_string": "text", "multimodal_data": None}, "text", [1, 2]):
        await check_prompt(entry, {"prompt": prompt})
    for url in ("http://127.0.0.1/", "file:///etc/passwd", DATA_URL, "", 1, None):
        bad = {"prompt_string": "<__media__>", "multimodal_data": [encoded(PNG), url]}
        refused(await seeing.post("/v1/completions", {"prompt": bad}), "prompt.multimodal_data[1]")
        answer = await seeing.post("/v1/completions", {"prompt": ["x", bad]})
        refused(answer, "prompt[1].multimodal_data[1]")
    for wrong in ("http://127.0.0.1/", {"0": "http://127.0.0.1/"}, 1):
        answer = await seeing.post("/v1/completions", {"prompt": {"prompt_string": "x", "multimodal_data": wrong}})
        refused(answer, "prompt.multimodal_data")
    assert eye.starts() == []


async def test_inputs_of_embeddings_hold_no_media(seeing: Herd, eye: Fake) -> None:
    for item in ({"content": [image("http://127.0.0.1/")]}, {"prompt_string": "x", "multimodal_data": ["AAAA"]}):
        for given in (item, [item], ["x", item]):
            answer = await seeing.post("/v1/embeddings", {"input": given, "content": given})
            assert (answer.status, answer.error["param"]) == (400, "input")
    assert eye.starts() == []


JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"url": f"data:image/jpeg;base64,{encoded(JPEG)}"}, id="openai"),
        pytest.param({"url": f"data:image/jpeg;base64,{encoded(JPEG)}", "detail": "auto"}, id="LibreChat"),
        pytest.param({"url": f"data:image/jpg;base64,{encoded(JPEG)}", "detail": "high"}, id="jpg"),
        pytest.param({"url": f"data:image/png;base64,{encoded(JPEG)}"}, id="a JPEG that is called a PNG"),
        pytest.param({"url": f"data:image/webp;base64,{encoded(b'RIFF____WEBPVP8 ')}", "detail": None}, id="webp"),
        pytest.param({"url": f"data:image/jpeg;base64,{encoded(JPEG + bytes(3 * CHECKED_AT_ONCE))}"}, id="large"),
    ],
)
async def test_images_are_taken_as_clients_send_them(seeing: Herd, eye: Fake, part: dict[str, Any]) -> None:
    async def sent() -> AsyncIterator[bytes]:
        body = json.dumps(chat({"type": "image_url", "image_url": part})).encode()
        for start in range(0, len(body), 2**18):
            yield body[start : start + 2**18]

    answer = await seeing.post(CHAT, raw=sent())
    assert answer.echo[2]["content"][1]["image_url"] == part


@pytest.mark.parametrize("start", ["DATA:image/png;base64,", "data:IMAGE/PNG;base64,", "data:image/png;BASE64,"])
async def test_what_engines_read_in_small_letters_only_is_told_to_be_so(seeing: Herd, eye: Fake, start: str) -> None:
    assert "in small letters" in refused(await seeing.post(CHAT, chat(image(start + encoded(PNG)))), URL)


async def test_base64_with_line_breaks_is_told_to_be_without(seeing: Herd, eye: Fake) -> None:
    """llama.cpp would take the image to end there."""
    good = encoded(PNG + bytes(1000))
    for end in ("\n", "\r\n"):
        broken = end.join(good[at : at + 76] for at in range(0, len(good), 76))
        message = refused(await seeing.post(CHAT, chat(image(f"data:image/png;base64,{broken}"))), URL)
        assert "padded and without line breaks" in message
    for bad in (good[:-4] + "\nabc", good[:76] + "\n===" + good[76:], good[:-1]):
        assert "padded" in refused(await seeing.post(CHAT, chat(image(f"data:image/png;base64,{bad}"))), URL)
    assert eye.starts() == []


async def test_a_request_has_so_many_media_and_no_more(seeing: Herd, eye: Fake) -> None:
    assert (await seeing.post(CHAT, chat(*[image(DATA_URL)] * MOST_MEDIA))).status == 200
    answer = await seeing.post(CHAT, chat(*[image(DATA_URL)] * (MOST_MEDIA + 1)))
    assert "at most 256" in refused(answer, f"messages[2].content[{MOST_MEDIA + 1}]")
    said = [{"role": "user", "content": [image(DATA_URL)]}] * (MOST_MEDIA + 1)
    refused(await seeing.post(CHAT, {"messages": said}), f"messages[{MOST_MEDIA}].content[0]")
    half = {"prompt_string": "x", "multimodal_data": [encoded(PNG)] * (MOST_MEDIA // 2)}
    await check_prompt(seeing.service.pool.find("eye")[0], {"prompt": [half, half]})
    more = {"prompt_string": "x", "multimodal_data": [encoded(PNG)] * (MOST_MEDIA // 2 + 1)}
    answer = await seeing.post("/v1/completions", {"prompt": [half, more]})
    assert "at most 256" in refused(answer, "prompt[1].multimodal_data")
    assert len(eye.requests()) == 1


async def test_while_a_large_image_is_checked_others_get_their_turn() -> None:
    body = chat(image(f"data:image/jpeg;base64,{encoded(JPEG + bytes(6 * CHECKED_AT_ONCE))}"))
    checking, turns = asyncio.create_task(settle_media(None, body)), 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert not checking.result().changed
    assert turns >= 8


async def test_large_base64_is_looked_at_to_its_end() -> None:
    good = encoded(JPEG + bytes(2 * CHECKED_AT_ONCE))
    for at in (CHECKED_AT_ONCE - 1, CHECKED_AT_ONCE, 2 * CHECKED_AT_ONCE, len(good) - 8):
        for wrong in "=\n\xe9\ud800":
            with pytest.raises(InvalidRequest, match="padded"):
                await settle_media(None, chat(image(f"data:image/jpeg;base64,{good[:at]}{wrong}{good[at + 1 :]}")))


# Fetched by the service, where media.remote says so.

Fetching = Callable[..., Awaitable[Herd]]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpsHost]:
    folder = tmp_path / "host"
    folder.mkdir()
    async with https_host(folder, {"/a.png": answer(PNG), "/text": answer(b"x" * 30)}) as host:
        yield host


@pytest.fixture
async def fetching(eye: Fake, start_herd: StartHerd, host: HttpsHost) -> AsyncIterator[Fetching]:
    """Starts a service that fetches, from the test's host as if that were one of the internet."""
    opened: list[RemoteImages] = []

    async def lookup(name: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if name == NAME else ["10.0.0.1"]

    async def start(**media: Any) -> Herd:
        settings = MediaSettings(remote=True, **media)
        images = RemoteImages(settings, lookup=lookup, public=lambda ip: ip == "127.0.0.1", trust=host.trust)
        opened.append(await images.__aenter__())
        herd = await start_herd(server={"max_body": MOST_BODY})
        herd.service.remote_images = images
        return herd

    yield start
    for images in opened:
        await images.close()


@pytest.mark.parametrize("path", CHAT_ROUTES)
async def test_the_engine_gets_what_was_fetched_in_the_place_of_the_url(
    fetching: Fetching, host: HttpsHost, eye: Fake, path: str
) -> None:
    herd = await fetching()
    url = host.url("/a.png")
    body = chat(image(url), image(DATA_URL), {"type": "image_url", "image_url": url}) | {"temperature": 0.5}
    assert (await herd.post(path, body)).status == 200
    (reached,) = eye.requests(CHAT if path != "/apply-template" else path)
    assert reached["body"] == chat(*[image(DATA_URL)] * 3) | {"temperature": 0.5}
    assert host.paths == ["/a.png"], "each URL is fetched once"


async def test_images_of_a_request_are_fetched_side_by_side(fetching: Fetching, host: HttpsHost) -> None:
    herd = await fetching()
    asked = asyncio.create_task(herd.post(CHAT, chat(*(image(host.url(f"/never/{n}")) for n in range(3)))))
    async with asyncio.timeout(5):
        while len(host.heads) < 3:  # noqa: ASYNC110  nobody tells when the host has them
            await asyncio.sleep(0.001)
    asked.cancel()
    async with asyncio.timeout(5):
        while host.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # a client that leaves ends what is fetched for it


async def test_all_that_fails_is_told_with_one_text_and_with_its_field(
    fetching: Fetching, host: HttpsHost, eye: Fake, unused_tcp_port: int
) -> None:
    herd = await fetching(timeout=0.2)
    host.answers |= {"/away": redirect("https://inner.test/"), "/down": redirect("http://images.test/")}
    urls = [host.url(path) for path in ("/text", "/away", "/down", "/never")]
    urls += ["https://inner.test/", f"https://{NAME}:{unused_tcp_port}/"]
    told = {
        refused(await herd.post(CHAT, chat(image(DATA_URL), image(url))), URL.replace("[1]", "[2]")) for url in urls
    }
    assert len(told) == 1
    assert eye.starts() == []


async def test_a_private_address_in_the_url_is_named_as_such(fetching: Fetching, host: HttpsHost) -> None:
    herd = await fetching()
    for literal in ("10.0.0.1", "[::1]", "2130706433"):
        message = refused(await herd.post(CHAT, chat(image(f"https://{literal}/a.png"))), URL)
        assert "no host of the public internet" in message
    assert host.heads == []


async def test_other_urls_are_refused_as_ever_and_nothing_is_fetched_for_a_request_that_fails(
    fetching: Fetching, host: HttpsHost
) -> None:
    herd = await fetching()
    for url in ELSEWHERE:
        if not url.startswith("https:"):
            refused(await herd.post(CHAT, chat(image(url))), URL)
    refused(await herd.post(CHAT, chat(image(host.url("/a.png")), image("http://x/"))), URL.replace("[1]", "[2]"))
    for kind in ("input_audio", "video_url"):
        field = f"messages[2].content[1].{kind}.url"
        refused(await herd.post(CHAT, chat({"type": kind, kind: {"url": host.url("/a.png")}})), field)
    assert host.heads == []


async def test_so_many_images_are_fetched_for_a_request_and_no_more(fetching: Fetching, host: HttpsHost) -> None:
    herd = await fetching(most=2)
    for count, status in ((2, 200), (3, 400)):
        host.answers |= {f"/{n}": answer(PNG) for n in range(count)}
        body = chat(*(image(host.url(f"/{n}")) for n in range(count)))
        assert (await herd.post(CHAT, body)).status == status
    assert len(host.heads) == 2


async def test_what_is_fetched_for_a_request_is_no_larger_than_a_request(
    fetching: Fetching, host: HttpsHost, eye: Fake
) -> None:
    herd = await fetching()
    large = answer(PNG + bytes(MOST_BODY // 4 - len(PNG)))  # a third of it in base64
    for count, status in ((2, 200), (3, 400)):
        host.answers |= {f"/{n}": large for n in range(count)}
        assert (await herd.post(CHAT, chat(*(image(host.url(f"/{n}")) for n in range(count))))).status == status


async def test_an_image_in_many_parts_counts_in_each_of_them(fetching: Fetching, host: HttpsHost, eye: Fake) -> None:
    """It is fetched once, and what the engine gets holds it many times."""
    herd = await fetching(most=3)
    host.answers["/large"] = answer(PNG + bytes(MOST_BODY // 4 - len(PNG)))
    for count, status in ((2, 200), (3, 400)):
        reply = await herd.post(CHAT, chat(*[image(host.url("/large"))] * count))
        assert reply.status == status
    assert len(host.heads) == 2
    message = refused(await herd.post(CHAT, chat(*[image(host.url("/a.png"))] * 4)), URL.replace("[1]", "[4]"))
    assert "at most 3" in message
    assert len(host.heads) == 2


async def test_what_comes_within_a_request_leaves_less_room_for_what_is_fetched(
    fetching: Fetching, host: HttpsHost
) -> None:
    herd = await fetching()
    host.answers["/large"] = answer(PNG + bytes(MOST_BODY // 2 - len(PNG)))
    for length, status in ((0, 200), (MOST_BODY // 2, 400)):
        body = chat(image(host.url("/large")), {"type": "text", "text": "x" * length})
        assert (await herd.post(CHAT, body)).status == status


async def test_nothing_is_fetched_for_a_key_that_has_reached_its_limit(
    fetching: Fetching, host: HttpsHost, make_key: Callable[..., str]
) -> None:
    key = make_key("one", requests_per_minute=1)
    herd = await fetching()
    asked = [(await herd.post(CHAT, chat(image(host.url("/a.png"))), key=key)).status for _ in range(3)]
    assert asked == [200, 429, 429]
    assert host.paths == ["/a.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": [{"type": "other"}]},
        {"personality": "nobody"},
        {"temperature": "warm"},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "none"}]},
    ],
)
async def test_nothing_is_fetched_for_a_request_that_is_refused_for_something_else(
    fetching: Fetching, host: HttpsHost, wrong: dict[str, Any]
) -> None:
    herd = await fetching()
    asked = chat(image(host.url("/a.png")))
    body = {**asked, **wrong, "messages": asked["messages"] + wrong.get("messages", [])}
    assert (await herd.post(CHAT, body)).status in {400, 404}
    assert host.heads == []


async def test_the_id_of_the_key_goes_along_so_that_one_holds_not_all_connections(
    fetching: Fetching, host: HttpsHost, make_key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key("one")
    herd = await fetching()
    images = herd.service.remote_images
    assert images is not None
    assert (await herd.post(CHAT, chat(image(host.url("/a.png"))), key=key)).status == 200
    assert list(images._turns) == [herd.service.keys.authenticate(key).id]
