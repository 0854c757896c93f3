"""The processes of models, as one sees them from outside: what they hold, what they know, what they may do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import pytest

from manager.engines.llama.environment import ENVIRONMENT, ENVIRONMENT_PREFIXES
from tests.e2e.service import PATIENCE, Service, running

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="they are looked at in /proc"),
]

# Names of ours in a child's environment, beside those of the service's own that go along.
GIVEN: Final = {
    *("LLAMA_API_KEY", "LLAMA_SERVER_ROUTER_PORT", "LLAMA_ARG_VIDEO_FFMPEG_DIR"),
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
}
CANARY: Final = "canary-1f9d6c"
HELLO: Final = [{"role": "user", "content": "Name a colour."}]


@dataclass(frozen=True)
class Answer:
    status: int
    text: str


def call(service: Service, method: str, path: str, body: str | None = None) -> Answer:
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {service.key}"})
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    finally:
        connection.close()


def ask(service: Service, model: str, **fields: Any) -> Answer:
    body = {"model": model, "messages": HELLO, "max_tokens": 4, **fields}
    return call(service, "POST", "/v1/chat/completions", json.dumps(body))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, model_files: Path, launcher: Mapping[str, str]) -> Iterator[Service]:
    """A service with secrets in its environment and narrow limits for children; "tiny" is loaded."""
    folder = tmp_path_factory.mktemp("held")
    (folder / "data").mkdir()
    models = {"tiny": {"params": {"model": "tiny.gguf", "threads": 1}}}
    (folder / "data" / "models.json").write_text(json.dumps(models))
    environment = {
        "LLAMAHERD_STORAGE__MODELS_FOLDER": str(model_files),
        "LLAMAHERD_STORAGE__RUN_FOLDER": str(folder / "data" / "run"),
        "LLAMAHERD_CHILDREN__OPEN_FILES": "256",
        "LLAMAHERD_CHILDREN__ADDRESS_SPACE": str(16 * 1024**3),
        "HF_TOKEN": CANARY,
        "SECRET_OF_SOMEBODY": CANARY,
        "AWS_SECRET_ACCESS_KEY": CANARY,
        **launcher,
    }
    with running(folder, environment) as service:
        assert ask(service, "tiny").status == 200, "under all these rules it works as ever"
        yield service


@pytest.fixture
def child(held: Service) -> psutil.Process:
    return held.child("tiny")


def test_a_child_gains_no_rights_and_its_crash_leaves_no_image(child: psutil.Process) -> None:
    assert re.search(r"^NoNewPrivs:\t1$", Path(f"/proc/{child.pid}/status").read_text(), re.M)
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_child_is_held_to_the_limits_of_the_settings(child: psutil.Process) -> None:
    assert child.rlimit(psutil.RLIMIT_NOFILE) == (256, 256)
    assert child.rlimit(psutil.RLIMIT_AS) == (16 * 1024**3, 16 * 1024**3)


def test_a_child_finds_nothing_in_its_environment_that_is_not_for_it(child: psutil.Process) -> None:
    environment = child.environ()
    strange = {name for name in environment.keys() - ENVIRONMENT - GIVEN if not name.startswith(ENVIRONMENT_PREFIXES)}
    assert strange == set()
    assert CANARY not in repr(environment)


def opened(process: psutil.Process) -> dict[int, str]:
    """What its descriptors are of: files by their paths, sockets and pipes by their numbers."""
    found = {}
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found[int(entry.name)] = str(entry.readlink())
    return found


def test_a_child_holds_no_descriptor_of_the_service(held: Service, child: psutil.Process) -> None:
    ours = set(opened(psutil.Process(held.process.pid)).values())
    theirs = {what for what in opened(child).values() if not what.startswith(("anon_inode", "/dev"))}
    pipes = {what for what in theirs if what.startswith("pipe")}
    assert len(pipes) <= 3, "its input and its two outputs, wherever it has put them"
    assert ours & theirs <= pipes


def test_its_key_is_nowhere_but_in_its_environment_and_goes_with_it(held: Service, child: psutil.Process) -> None:
    key = child.environ()["LLAMA_API_KEY"]
    assert call(held, "POST", "/admin/models/tiny/unload").status == 200
    assert ask(held, "tiny").status == 200
    again = held.child("tiny")
    assert again.environ()["LLAMA_API_KEY"] != key
    log = call(held, "GET", "/admin/models/tiny/logs").text
    for one in (key, again.environ()["LLAMA_API_KEY"]):
        assert len(one) >= 32
        for text in (" ".join(again.cmdline()), held.log, log):
            assert one not in text


def test_its_socket_lies_in_a_folder_of_the_service_alone(child: psutil.Process) -> None:
    (path,) = set(re.findall(r'[^\s"]+\.sock', " ".join(child.cmdline())))
    folder = Path(path).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    assert stat.S_ISSOCK(Path(path).stat().st_mode)
    assert child.net_connections("inet") == [], "it can be reached by no port"


@pytest.mark.parametrize("program", ["ffmpeg", "ffprobe"])
def test_the_decoder_that_llama_cpp_starts_opens_nothing_but_its_input(
    child: psutil.Process, tmp_path: Path, program: str
) -> None:
    fake = tmp_path / program
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    given = Path(child.environ()["LLAMA_ARG_VIDEO_FFMPEG_DIR"]) / program
    done = subprocess.run([given, "-i", "cache:pipe:0"], env={"PATH": str(tmp_path)}, capture_output=True, check=True)
    assert done.stdout == b"-protocol_whitelist cache,pipe -i cache:pipe:0\n"


@pytest.mark.parametrize("program", ["ffmpeg", "ffprobe"])
def test_the_decoder_does_not_start_itself_where_its_folder_is_on_the_path(
    child: psutil.Process, tmp_path: Path, program: str
) -> None:
    ours = Path(child.environ()["LLAMA_ARG_VIDEO_FFMPEG_DIR"])
    real, link, copy = tmp_path / "real *", tmp_path / "link", tmp_path / "of another installation"
    real.mkdir()
    (real / program).write_text('#!/bin/sh\necho "$@"\n')
    (real / program).chmod(0o755)
    link.symlink_to(ours)
    shutil.copytree(ours, copy)
    path = f"{ours}:{ours}/:{link}::{copy}:{real}"
    done = subprocess.run([ours / program, "-i", "a  b"], env={"PATH": path}, capture_output=True, timeout=PATIENCE)
    whitelist = "-protocol_whitelist cache,pipe"
    assert done.stdout.decode() == f"{whitelist} {whitelist} -i a  b\n", "once for each of the two"
    for none in ("", f"{ours}", f"{ours}:"):
        command = [str(ours / program), "-i", "x"]
        alone = subprocess.run(command, env={"PATH": none}, cwd=real, capture_output=True, timeout=PATIENCE)
        assert (alone.returncode, alone.stdout) == (127, b"")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_a_playlist_that_passes_for_a_film_makes_it_fetch_nothing(child: psutil.Process) -> None:
    ffmpeg = Path(child.environ()["LLAMA_ARG_VIDEO_FFMPEG_DIR"]) / "ffmpeg"
    with trap() as (url, caught):
        dash = (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT1S"><Period>'
            '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
            f"<BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        )
        command = [str(ffmpeg), *("-nostdin", "-i", "cache:pipe:0", "-f", "rawvideo", "pipe:1")]
        assert subprocess.run(command, input=dash.encode(), capture_output=True, timeout=PATIENCE).returncode != 0
        assert not caught()


@contextlib.contextmanager
def trap() -> Iterator[tuple[str, Callable[[], bool]]]:
    """A URL of this machine, and whether somebody has come there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        def caught() -> bool:
            try:
                server.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield f"http://127.0.0.1:{server.getsockname()[1]}/schema.json", caught


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_no_engine_fetches_what_a_schema_refers_to(held: Service, tmp_path: Path, scheme: str) -> None:
    with trap() as (url, caught):
        other = tmp_path / "schema.json"
        other.write_text('{"type": "integer"}')
        reference = url if scheme == "http" else other.as_uri()
        for schema in ({"$ref": reference}, {"type": "object", "properties": {"a": {"$ref": f"{reference}#/x"}}}):
            wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            answer = ask(held, "tiny", response_format=wanted)
            assert answer.status == 400, answer.text
        assert not caught()


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_the_grammars_of_hugging_face_models_fetch_no_schema_either(tmp_path: Path, scheme: str) -> None:
    llguidance = pytest.importorskip("llguidance")
    with trap() as (url, caught):
        other = tmp_path / "schema.json"
        other.write_text('{"type": "integer"}')
        reference = url if scheme == "http" else other.as_uri()
        for schema in ({"$ref": reference}, {"$schema": reference, "type": "string"}):
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
            assert "retriev" in llguidance.LLMatcher.validate_grammar(grammar)
        assert not caught()


def test_of_fields_of_the_same_name_engines_read_the_one_that_was_checked(held: Service) -> None:
    """A body goes to the engine as it came, and the service looked at the last of such fields."""
    first, last = (json.dumps([{"role": "user", "content": word}]) for word in ("first", "last"))
    for body in (
        f'{{"messages": {first}, "messages": {last}}}',
        f'{{"mess\\u0061ges": {first}, "messages": {last}}}',
        '{"messages": [{"role": "user", "content": "first", "content": "last"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "first", "text": "last"}]}]}',
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "text": "last", "type": "text"}]}]}',
    ):
        answer = call(held, "POST", "/apply-template", body)
        assert answer.status == 200, answer.text
        assert "last" in answer.text
        assert "first" not in answer.text
