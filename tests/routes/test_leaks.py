"""What goes wrong is told without secrets: keys, prompts, and where on this machine things lie.

Also that names and paths of requests lead nowhere but to what the service has on purpose.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from aiohttp import ClientError

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said
from tests.routes.stage import CHAT, Fake, Stage

PROMPT = "canary-4d1a7b prompt"
CANARY = "canary-4d1a7b"
BENT = "llama_model_load: error: failed to open /srv/secret/place/weights.gguf: /srv/secret/place/x is bent"
FAULTS: dict[str, dict[str, Any]] = {
    "ends before it binds": {"exit_on_start": {"code": 1, "lines": [BENT]}},
    "crashes while it loads": {"exit_during_load": {"after": 0.0, "code": 1, "lines": [BENT]}},
    "does not get ready": {"never_ready": True},
    "answers 400": {"error_status": 400},
    "answers 401": {"error_status": 401},
    "answers 404": {"error_status": 404},
    "answers 500": {"error_status": 500},
    "is silent": {"stall_stream_after": 1},
    "closes in the middle": {"cut_stream_after": 1},
    "says an error in the middle": {"error_stream_after": 1},
    "dies in the middle": {"die_mid_stream": 1},
    "answers less than it says": {"truncated_body": True},
    "speaks no HTTP": {"bad_http": True},
    "sends a huge header": {"huge_header": 100_000},
    "drops the connection": {"drop_after": 3},
}
# Seen without a stream, too; else a failure is told in the same way as one of these.
BOTH: Final = {"ends before it binds", "answers 500", "answers less than it says"}
# Everything of llama-server that is no route of ours, and what it does there.
# Those of its routes that are not ours.
UPSTREAM_ROUTES = (
    *("GET /slots", "POST /slots/0?action=save", "POST /slots/0?action=restore", "POST /slots/0?action=erase"),
    *("POST /props", "GET /lora-adapters", "POST /lora-adapters", "POST /completion", "POST /completions"),
    *("POST /embedding", "POST /embeddings", "POST /reranking", "POST /responses"),
    *("POST /v1/chat/completions/control", "POST /chat/completions/input_tokens", "POST /responses/input_tokens"),
    *("POST /audio/transcriptions", "POST /v1/systemone", "GET /v1/stream", "DELETE /v1/stream"),
    *("POST /v1/streams/lookup", "POST /models", "DELETE /models", "POST /models/load", "POST /models/unload"),
    *("GET /models/sse", "GET /cors-proxy?url=http://127.0.0.1/", "POST /cors-proxy", "GET /tools", "POST /tools"),
    *("GET /index.html", "GET /bundle.js", "POST /v1/metrics", "GET /mcp", "POST /mcp"),
)
TRICKS = (
    *("/v1/../slots", "/v1/chat/../../slots", "//slots", "/v1//chat/completions", "/./slots", "/v1/models/../../slots"),
    *(
        "/v1%2f..%2fslots",
        "/v1/chat%2fcompletions",
        "/%2e%2e/slots",
        "/..%2fslots",
        "/slots%00",
        "/v1/chat/completions/",
    ),
    *("/v1/chat/completions%20", "/v1/chat/completions;x", "/V1/chat/completions", "/tokenize%2f..%2fslots"),
    *("/tokenize/../slots", "/tokenize/..%2fslots", "/v1/embeddings%3f", "/apply-template%23", "/\\slots"),
)
NAMES = (
    *("../../../etc/passwd", "..", ".", "/etc/passwd", "alpha/../../../etc/passwd", "..\\..\\windows\\win.ini"),
    *("%2e%2e%2fetc%2fpasswd", "....//....//etc/passwd", "alpha.gguf", "models/alpha.gguf", "file:///etc/passwd"),
    *(
        "alpha\x00",
        "alpha\x00.gguf",
        "alpha%00",
        "~root",
        "$HOME",
        "`id`",
        "a" * 5000,
        "ÄÖ\u202e\ufeff",
        "😀",
    ),
    *(
        "alpha/",
        "/alpha",
        "alpha ",
        "ALPHA",
        "alpha:nobody",
        "alpha:../x",
        "CON",
        "-rf",
        "*",
        "?",
        "alpha\n",
        "\r\nX: y",
    ),
)


@dataclass
class Secrets:
    """What must show nowhere, by its name."""

    known: dict[str, str]

    def check(self, where: str, text: str) -> None:
        """Fail where one of them is in the text."""
        found = [name for name, secret in self.known.items() if secret in text]
        assert not found, f"{where} has {found}: {text[:2000]}"


@dataclass
class Watched:
    herd: Herd
    secrets: Secrets
    inference: str
    admin: str
    fake: Fake
    access: io.StringIO  # what the access log wrote

    async def told(self, method: str, path: str, body: Any = None, key: str | None = None) -> str:
        """All that the service says to this request: the head and what comes of the body."""
        text = ""
        try:
            async with self.herd.open(method, path, body, key=key or self.inference) as response:
                text = f"{response.status} {response.headers} {response.reason} "
                text += (await response.read()).decode()
        except ClientError:
            pass  # cut off in the middle, as it should be
        return text

    def learn(self) -> None:
        """The keys of its children so far are secrets, too."""
        for number, request in enumerate(self.fake.requests(path=None)):
            self.secrets.known[f"key of child {number}"] = request["headers"]["authorization"].partition(" ")[2]


@pytest.fixture
async def watched(
    stage: Stage,
    start_herd: StartHerd,
    make_key: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> Watched:
    """A service with keys and short patience, with everything it logs at hand."""
    inference, admin = make_key("user", "inference"), make_key("root", "inference", "admin")
    fake = stage.model("alpha")
    stage.model("gone")
    (stage.data / "models" / "gone.gguf").unlink()
    caplog.set_level(logging.DEBUG)
    herd = await start_herd(limits={"load_timeout": 0.5, "wait_timeout": 0.5, "stop_grace": 0.5})
    settings = herd.service.settings
    known = {
        "the inference key": inference,
        "the admin's key": admin,
        "the folder of the data": str(stage.folder),
        "the run folder": str(settings.storage.run_folder),
        "a path of the engine": "/srv/secret",
        "this repository": str(Path(__file__).parents[2]),
        "a socket": ".sock",
        "a traceback": "Traceback",
    }
    access = io.StringIO()
    assert herd.service.access_log is not None
    herd.service.access_log._stream = access
    return Watched(herd, Secrets(known), inference, admin, fake, access)


async def provoke(watched: Watched, fault: str) -> dict[str, str]:
    """Everything that a holder of the inference key gets to see of that fault, by where."""
    watched.fake.knobs(**FAULTS[fault])
    told = {}
    async with watched.herd.open("GET", "/status", key=watched.inference) as feed:
        for stream in (True, False) if fault in BOTH else (True,):
            body = said(PROMPT, stream=stream, model="alpha")
            if fault == "is silent":
                async with watched.herd.open("POST", CHAT, body, key=watched.inference) as response:
                    told["the silent stream"] = f"{response.headers} {await response.content.readline()!r}"
            else:
                told[f"the answer, stream={stream}"] = await watched.told("POST", CHAT, body)
        told["the feed"] = f"{feed.headers} {(await feed.content.readany()).decode()}"
    return told


async def around(watched: Watched) -> dict[str, str]:
    """What the other routes say of it to that key."""
    routes = ("GET /chat/errors", "GET /v1/models", "GET /v1/models/alpha", "GET /models", "GET /health", "GET /ping")
    admins = ("GET /admin/models", "GET /admin/models/alpha", "GET /admin/models/alpha/logs", "GET /admin/requests")
    more = ("GET /metrics", "POST /admin/reload", "GET /admin/events", "POST /loadModel", "GET /nowhere")
    told = {"a model whose file is gone": await watched.told("POST", CHAT, said("hi", model="gone"))}
    for route in (*routes, *admins, *more):
        method, path = route.split(" ")
        told[route] = await watched.told(method, path)
    return told


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_goes_wrong_tells_nothing_that_is_not_its_senders(
    watched: Watched, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    told = await provoke(watched, fault)
    others = await around(watched)
    watched.learn()
    for where, text in {**told, **others}.items():
        watched.secrets.check(where, text)
    for where, text in others.items():
        assert CANARY not in text, f"{where}: a prompt is for its sender's eyes"
    await watched.herd.server.close()  # by which the last access lines are written
    access = watched.access.getvalue()
    log = caplog.text + access
    assert "state=starting" in log, "nothing was logged, so nothing was looked at"
    assert f"POST '{CHAT}'" in access
    for secret in (
        "the inference key",
        "the admin's key",
        *(name for name in watched.secrets.known if "child" in name),
    ):
        assert watched.secrets.known[secret] not in log, f"the log has {secret}"
    assert CANARY not in log


async def test_what_an_administrator_sees_holds_no_keys_and_no_prompts(watched: Watched) -> None:
    watched.fake.knobs(**FAULTS["dies in the middle"])
    await watched.told("POST", CHAT, said(PROMPT, model="alpha", stream=True))
    watched.learn()
    keys = Secrets({name: text for name, text in watched.secrets.known.items() if "key" in name})
    routes = ("GET /admin/models", "GET /admin/models/alpha", "GET /admin/models/alpha/logs", "GET /admin/requests")
    activity = ("GET /admin/requests/history", "GET /admin/requests/history/1", "GET /admin/samples")
    for route in (*routes, *activity, "GET /chat/errors", "GET /metrics", "POST /admin/reload"):
        method, path = route.split(" ")
        told = await watched.told(method, path, key=watched.admin)
        assert told.startswith("200 "), told
        keys.check(route, told)
        assert CANARY not in told, f"{route} has a prompt"


async def test_a_capture_tells_its_prompt_to_administrators_alone_and_keys_to_nobody(watched: Watched) -> None:
    for secret in (watched.inference, watched.admin):
        await watched.told("PUT", "/admin/capture", {"enabled": True}, key=watched.admin)
        await watched.told("POST", CHAT, said(f"{PROMPT} {secret}", model="alpha"))
    watched.learn()
    for number in (1, 2):
        route = f"/admin/requests/history/{number}"
        refused = await watched.told("GET", route)
        assert refused.startswith("403 ")
        assert CANARY not in refused
        told = await watched.told("GET", route, key=watched.admin)
        assert CANARY in told
        assert "[redacted]" in told
        Secrets({name: text for name, text in watched.secrets.known.items() if "key" in name}).check(route, told)


@pytest.fixture
async def open_herd(stage: Stage, start_herd: StartHerd) -> tuple[Herd, Fake]:
    fake = stage.model("alpha")
    return await start_herd(), fake


async def raw(herd: Herd, method: str, target: str, body: bytes = b"{}") -> tuple[int, Any]:
    """Status and JSON of a request whose target goes out exactly so, as no client that tidies URLs would send it."""
    reader, writer = await asyncio.open_connection(herd.server.host, herd.server.port)
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    first, _, rest = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ")[1]), json.loads(rest) if b"application/json" in first else {"text": rest}


async def test_nothing_of_llama_server_can_be_reached_but_by_our_routes(open_herd: tuple[Herd, Fake]) -> None:
    herd, fake = open_herd
    assert (await herd.chat("hi")).status == 200
    before = len(fake.requests(path=None))
    body = json.dumps({**said("hi"), "prompt": "x", "filename": "x"}).encode()
    for route in UPSTREAM_ROUTES:
        method, _, path = route.partition(" ")
        status, told = await raw(herd, method, path, body)
        assert status in {404, 405}, route
        assert told["error"]["type"] == "invalid_request_error", route
    for path in TRICKS:
        for method in ("GET", "POST"):
            status, _ = await raw(herd, method, path, body)
            assert status in {400, 404, 405}, (method, path)
    seen = {request["path"] for request in fake.requests(path=None)[before:]}
    assert seen <= {"/slots", "/metrics"}, "no more than the service's own looks at it"
    assert not [request for request in fake.requests(path=None)[before:] if request["method"] != "GET"]


_touched: list[tuple[str, str]] | None = None
FILE_EVENTS: Final = {"open", "os.listdir", "os.scandir", "os.remove", "os.mkdir", "subprocess.Popen", "glob.glob"}


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _touched is not None and event in FILE_EVENTS:
        _touched.append((event, str(arguments[0])))


sys.addaudithook(_note)  # there is no way to take it away again


@contextmanager
def files_touched() -> Iterator[list[tuple[str, str]]]:
    """What this process opens, lists, makes or starts meanwhile."""
    global _touched
    _touched = []
    try:
        yield _touched
    finally:
        _touched = None


async def test_a_name_is_looked_up_in_the_catalog_and_leads_to_no_file(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(activity={"sample_every": 86_400.0})  # each look at memory reads files
    routes = (
        *("GET /v1/models/{}", "GET /admin/models/{}", "GET /admin/models/{}/logs", "POST /admin/models/{}/load"),
        *("POST /admin/models/{}/unload", "GET /unloadModel?model={}", "GET /v1/models/{}/"),
    )
    for path in ("/v1/models/nobody", "/admin/models/nobody/logs"):
        await herd.get(path)  # what is imported with the first such answer
    looks = [task for task in asyncio.all_tasks() if task.get_name() == "look at memory"]
    await asyncio.gather(*looks)
    with files_touched() as touched:
        stage.models_file.read_bytes()
    assert touched == [("open", str(stage.models_file))], "or nothing would be seen"
    with files_touched() as touched:
        for name in NAMES:
            body = json.dumps({**said("hi"), "model": name, "personality": name, "input": "x", "content": "x"}).encode()
            for path in ("/loadModel", CHAT, "/v1/embeddings", "/apply-template", "/tokenize"):
                status, told = await raw(herd, "POST", path, body)
                assert status == 404 or (status == 400 and "personality" in str(told)), (path, name, told)
                if status == 404 and path == CHAT:
                    assert told["error"]["code"] == "model_not_found"
            for route in routes:
                method, _, pattern = route.partition(" ")
                status, told = await raw(herd, method, pattern.format(quote(name, safe="")))
                assert status in {400, 404}, (route, name, told)
                assert "error" in told, (route, name, status, told)
    assert {what for event, what in touched} <= {str(herd.service.settings.storage.audit_file)}
    assert fake.starts() == []
