"""The same entry on both launchers: what the running server says of itself, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from manager.engines.llama.arguments import LlamaArgs
from manager.engines.llama.failures import explain_failure
from manager.engines.llama.progress import ENDING, FAREWELL, LoadProgress
from manager.entry import LlamaParams, Lora, ModelEntry, Template
from tests.gguf_files import CONTEXT, write_tiny_gguf

from .conftest import KEY, Child

Serve = Callable[..., AbstractContextManager[Child]]

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
CHATML_PROMPT = "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
# llama.cpp writes this name of an end of turn whatever the model's own token is.
ZEPHYR_PROMPT = "<|system|>\nBe short.<|endoftext|>\n<|user|>\nHi<|endoftext|>\n<|assistant|>\n"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def entry(path: Path, template: Template | None = None, mmproj: Path | None = None, **params: Any) -> ModelEntry:
    params = {"ctx_size": 512, "parallel": 1, **params}
    return ModelEntry("tiny", path, LlamaParams(model="m", **params), template=template, mmproj=mmproj)


def eventually(done: Callable[[], object]) -> None:
    """For logs, which llama.cpp writes in a thread of its own."""
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def native(request: pytest.FixtureRequest) -> None:
    """For tests of what only llama-server's own program does."""
    if request.node.callspec.params["command"] != "native":
        pytest.skip("the embedded child leaves it to the signal")


def test_options_take_effect(serve: Serve, model_file: Path, adapter_file: Path) -> None:
    tiny = entry(
        model_file,
        temperature=0.25,
        top_k=7,
        top_p=0.5,
        min_p=0.125,
        typical_p=0.75,
        repeat_penalty=1.5,
        repeat_last_n=100,
        presence_penalty=0.25,
        frequency_penalty=0.75,
        seed=42,
        n_predict=9,
        ctx_size=512,
        parallel=2,
        kv_unified=False,
        gpu_layers=-1,
        threads=1,
        batch_size=256,
        ubatch_size=128,
        cache_type_k="bf16",
        cache_type_v="f32",
        flash_attn=False,
        mmap=False,
        split_mode="layer",
        main_gpu=0,
        tensor_split=[1],
        rope_freq_base=10000.0,
        rope_freq_scale=1.0,
        cache_ram_mib=0,
        context_shift=False,
        lora=(Lora(path=str(adapter_file), scale=0.5),),
    )
    with serve(tiny) as child:
        props = child.ask("GET", "/props").body
        params = props["default_generation_settings"]["params"]
        expected = {
            "temperature": 0.25,
            "top_k": 7,
            "top_p": 0.5,
            "min_p": 0.125,
            "typical_p": 0.75,
            "repeat_penalty": 1.5,
            "repeat_last_n": 100,
            "presence_penalty": 0.25,
            "frequency_penalty": 0.75,
            "seed": 42,
        }
        assert {name: params[name] for name in expected} == expected
        assert props["default_generation_settings"]["n_ctx"] == 512
        assert [slot["n_ctx"] for slot in child.ask("GET", "/slots").body] == [512, 512]
        assert (
            child.ask("GET", "/lora-adapters").body[0] | {"path": str(adapter_file), "scale": 0.5}
            == (child.ask("GET", "/lora-adapters").body[0])
        )
        answer = child.ask("POST", "/v1/chat/completions", {"messages": MESSAGES, "ignore_eos": True}).body
        assert answer["usage"]["completion_tokens"] == 9
        assert answer["model"] == "tiny"
        eventually(lambda: "n_threads = 1" in "\n".join(child.log()))


@pytest.mark.parametrize(
    ("params", "window"),
    [
        ({"ctx_size": 512, "parallel": 3, "kv_unified": False}, 512),
        ({"ctx_size": 512, "parallel": 3, "kv_unified": True}, 512),
        ({"ctx_size": 0, "parallel": 2, "kv_unified": False}, CONTEXT),
        ({"ctx_size": 0, "parallel": 2, "kv_unified": True}, CONTEXT),
        ({"ctx_size": None, "parallel": 2, "kv_unified": False}, 4096),
    ],
)
def test_each_conversation_can_use_the_window_of_the_entry(
    serve: Serve, model_file: Path, params: dict[str, Any], window: int
) -> None:
    with serve(entry(model_file, **params)) as child:
        assert [slot["n_ctx"] for slot in child.ask("GET", "/slots").body] == [window] * params["parallel"]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (None, CHATML_PROMPT),
        (Template(builtin="chatml"), CHATML_PROMPT),
        (Template(builtin="zephyr"), ZEPHYR_PROMPT),
        (Template(builtin="llama2"), "[INST] Be short.\nHi [/INST]"),
    ],
    ids=["own", "chatml", "zephyr", "llama2"],
)
def test_templates_render_the_same(serve: Serve, model_file: Path, template: Template | None, prompt: str) -> None:
    with serve(entry(model_file, template)) as child:
        assert child.ask("POST", "/apply-template", {"messages": MESSAGES}).body == {"prompt": prompt}


def test_template_file_renders_the_same(serve: Serve, model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "ours.jinja"
    file.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}é{% endfor %}", encoding="utf-8")
    with serve(entry(model_file, Template(file=file))) as child:
        prompt = child.ask("POST", "/apply-template", {"messages": MESSAGES}).body["prompt"]
    assert prompt == "<system>Be short.é<user>Hié"


def test_tools_work_with_chatml_and_are_refused_with_other_built_in_templates(serve: Serve, model_file: Path) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 1}
    with serve(entry(model_file, Template(builtin="chatml"))) as child:
        assert child.ask("POST", "/v1/chat/completions", body).status == 200
    with serve(entry(model_file, Template(builtin="zephyr"))) as child:
        refused = child.ask("POST", "/v1/chat/completions", body)
        assert refused.status == 500
        assert refused.body["error"]["message"] == "tools param requires --jinja flag"


def test_entry_goes_before_the_defaults_in_the_model_file(serve: Serve, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", sampling={"temp": 0.5, "top_k": 11})
    # 0.8 is also llama.cpp's default: it must count as given.
    with serve(entry(path, temperature=0.8)) as child:
        params = child.ask("GET", "/props").body["default_generation_settings"]["params"]
    assert params["temperature"] == pytest.approx(0.8)
    assert params["top_k"] == 11


def test_key_is_asked_for_and_the_web_page_is_off(serve: Serve, model_file: Path) -> None:
    with serve(entry(model_file)) as child:
        assert child.ask("GET", "/props", key="another").status == 401
        assert child.ask("GET", "/props").status == 200
        # /metrics is text, so that only its refusal is JSON.
        assert child.ask("GET", "/metrics", key="another").status == 401


def test_sigterm_and_a_farewell_end_an_idle_child_without_a_traceback(serve: Serve, model_file: Path) -> None:
    with serve(entry(model_file)) as child:
        child.process.send_signal(signal.SIGTERM)
        child.say(FAREWELL)
        # llama-server exits by itself; the embedded child leaves it to the signal.
        assert child.process.wait(timeout=5) in (0, -signal.SIGTERM)
        assert not any("Traceback" in line for line in child.log())


def test_native_child_that_a_signal_has_ended_says_so_and_waits_for_the_farewell(
    serve: Serve, model_file: Path, native: None
) -> None:
    with serve(entry(model_file)) as child:
        eventually(lambda: any("listening on" in line for line in child.log()))  # it heeds signals from then on
        child.process.send_signal(signal.SIGTERM)
        eventually(lambda: any(ENDING in line for line in child.log()))
        with pytest.raises(OSError, match=r"refused|No such file"):
            eventually(lambda: child.ask("GET", "/health") is None)
        child.say(FAREWELL)
        assert child.process.wait(timeout=5) == 0


def test_child_ends_when_nobody_is_left_to_say_farewell(serve: Serve, model_file: Path) -> None:
    with serve(entry(model_file)) as child:
        child.say(b"")
        assert child.process.wait(timeout=5) == 1


def test_child_tells_of_its_load_on_stdout_and_of_all_else_on_stderr(serve: Serve, model_file: Path) -> None:
    other: list[bytes] = []
    progress = LoadProgress({"text_model": 1}, other.append)
    with serve(entry(model_file)) as child:
        child.ask("POST", "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4})
        eventually(lambda: any("listening on" in line for line in child.log()))
        child.process.kill()
        told = child.told().splitlines(keepends=True)
    values: list[float] = []
    for line in told:
        progress.feed(line)
        assert progress.value is not None
        values.append(progress.value)
    assert (values[0], values[-1]) == (0.0, 1.0)
    assert values == sorted(values)
    assert other == []


def test_draft_model_drafts(serve: Serve, model_file: Path) -> None:
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 32, "ignore_eos": True}
    with serve(entry(model_file)) as child:
        alone = child.ask("POST", "/v1/chat/completions", body).body
    with serve(entry(model_file, draft_model=str(model_file), draft_max=4, draft_gpu_layers=0)) as child:
        answer = child.ask("POST", "/v1/chat/completions", body).body
    assert "draft_n" not in alone["timings"]
    assert answer["timings"]["draft_n_accepted"] > 0
    assert answer["usage"] == alone["usage"]


def test_draft_model_that_does_not_load_is_told(spawn: Serve, model_file: Path, tmp_path: Path) -> None:
    alien = write_tiny_gguf(tmp_path / "alien.gguf", architecture="alien")
    with spawn(entry(model_file, draft_model=str(alien))) as child:
        assert child.process.wait(timeout=10) == 1
        assert "unknown model architecture: 'alien'" in explain_failure(child.log())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path, data: None, "failed to open GGUF file"),
        (lambda path, data: path.write_bytes(b"no model at all, but long enough"), "invalid magic characters"),
        (lambda path, data: path.write_bytes(data[:3000]), "failed to read key-value pairs"),
        (lambda path, data: path.write_bytes(data[:150_000]), "model is corrupted or incomplete"),
        (lambda path, data: write_tiny_gguf(path, architecture="lama"), "unknown model architecture: 'lama'"),
    ],
    ids=["missing", "no GGUF", "cut in the header", "cut in the data", "unknown architecture"],
)
def test_model_that_can_not_be_loaded_ends_the_child_with_the_reason(
    spawn: Serve,
    model_file: Path,
    tmp_path: Path,
    make: Callable[[Path, bytes], Any],
    reason: str,
) -> None:
    path = tmp_path / "bad.gguf"
    make(path, model_file.read_bytes())
    with spawn(entry(path)) as child:
        assert child.process.wait(timeout=10) == 1
        assert reason in explain_failure(child.log())


def test_bad_projector_is_named(spawn: Serve, model_file: Path) -> None:
    with spawn(entry(model_file, mmproj=model_file)) as child:
        assert child.process.wait(timeout=10) == 1
        assert f"Failed to load CLIP model from {model_file}" in explain_failure(child.log())


def test_options_that_do_not_fit_the_model_are_told(spawn: Serve, model_file: Path) -> None:
    with spawn(entry(model_file, cache_type_k="q8_0")) as child:
        assert child.process.wait(timeout=10) == 1
        assert explain_failure(child.log()) == "K cache type q8_0 with block size 32 does not divide n_embd_head_k=16"


def test_socket_that_can_not_be_bound_is_told(spawn: Serve, model_file: Path, tmp_path: Path) -> None:
    with spawn(entry(model_file), tmp_path / "no" / "folder.sock") as child:
        assert child.process.wait(timeout=10) == 1
        assert explain_failure(child.log()).startswith("couldn't bind HTTP server socket")


def test_bad_jinja_file_is_told(spawn: Serve, model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.jinja"
    file.write_text("{{ bad")
    with spawn(entry(model_file, Template(file=file))) as child:
        assert child.process.wait(timeout=10) == 1
        # llama-server may exit before its log's thread has written what the parser said.
        told = explain_failure(child.log())
        assert "Parser Error: Expected }}" in told or "the supplied chat template is not supported: {{ bad" in told


def embedded_child(argument: str, key: str | None = "k") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LLAMA_API_KEY"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "manager.engines.llama.embedded", argument],
        env=environment if key is None else {**environment, "LLAMA_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_embedded_does_not_start_without_a_key() -> None:
    done = embedded_child("{}", key=None)
    assert (done.returncode, done.stderr) == (1, "embedded: the variable LLAMA_API_KEY is not set\n")


def test_embedded_refuses_an_attribute_that_does_not_exist() -> None:
    done = embedded_child('{"no_such": 1}')
    assert done.returncode == 1
    assert done.stderr.startswith("embedded: AttributeError: ")
    assert explain_failure(done.stderr.splitlines()).endswith("has no attribute 'no_such'")


@pytest.fixture
def embedded(model_file: Path, short_folder: Path) -> Iterator[Child]:
    """A ready embedded child, on a socket whose path a dead one left behind."""
    path = short_folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    args = LlamaArgs.from_entry(entry(model_file), socket=path)
    child = Child(
        [sys.executable, "-P", "-m", "manager.engines.llama.embedded", args.to_json()], path, short_folder / "log"
    )
    try:
        child.wait_ready()
        yield child
    finally:
        child.end()


def test_embedded_replaces_a_stale_socket(embedded: Child) -> None:
    assert embedded.ask("GET", "/props").status == 200


def test_embedded_ignores_an_interrupt(embedded: Child) -> None:
    embedded.process.send_signal(signal.SIGINT)
    assert embedded.ask("GET", "/props").status == 200
    assert embedded.process.poll() is None


def test_embedded_ends_at_once_while_it_generates(embedded: Child) -> None:
    # A native llama-server waits for the clients of running requests here, or for ever.
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(embedded.path))
        body = b'{"prompt": "a", "ignore_eos": true, "stream": true, "n_predict": 400}'
        head = f"POST /completion HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        assert client.recv(64).startswith(b"HTTP/1.1 200")
        embedded.process.send_signal(signal.SIGTERM)
        assert embedded.process.wait(timeout=5) == -signal.SIGTERM


def test_embedded_imports_nothing_that_it_does_not_need() -> None:
    """What the child imports beside xllamacpp is paid for by every load."""
    code = "import sys, manager.engines.llama.embedded; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    imported = {name.split(".")[0] for name in done.stdout.split()}
    assert imported.isdisjoint({"aiohttp", "asyncio", "pydantic", "numpy", "orjson", "gguf", "xllamacpp"})
