"""What scripts/gpu_check.py calls right and wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import GPU, WINDOW, OnGpuWatch, require_gpu, service
from benchmarks.gpu_judging import (
    FREED_WITHIN,
    LOGPROB_TOLERANCE,
    MIB,
    NEAR_TIE,
    OnGpu,
    Token,
    agreement,
    wrong_on_gpu,
    wrong_speeds,
)
from manager.memory_free import Gpus
from tests.fakes import write_binary
from tests.fakes.nvml import FakeNvml, Gpu
from tests.gguf_files import write_tiny_gguf

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
RIGHT = OnGpu(estimate=1100 * MIB, taken=1000 * MIB, file_size=94 * MIB, layers=(31, 31), freed_after=0.3)


def answer(text: str, **likeliest: float) -> list[Token]:
    """A token for each letter, all of them quite sure but for what `likeliest` says of the last one."""
    *before, last = (Token(letter, -0.5, {letter: -0.5}) for letter in text)
    return [*before, replace(last, likeliest={**last.likeliest, **likeliest})]


def test_the_same_text_is_right() -> None:
    found = agreement(answer("abcd"), answer("abcd"))
    assert (found.same, found.of, found.apart, found.wrong) == (4, 4, 0.0, None)


def test_an_answer_that_ends_earlier_is_compared_that_far() -> None:
    assert agreement(answer("abcd"), answer("ab")).of == 2


def test_another_token_is_right_only_where_the_cpu_was_nearly_undecided() -> None:
    near, far = -0.5 - NEAR_TIE + 0.01, -0.5 - NEAR_TIE - 0.01
    assert agreement(answer("abc", x=near), answer("abx")).wrong is None
    assert agreement(answer("abc", x=near), answer("abx")).same == 2
    assert agreement(answer("abc", x=far), answer("abx")).wrong == "token 3 is 'x', and the CPU is sure of 'c'"
    assert agreement(answer("abc"), answer("abx")).wrong is not None  # it is none of the likeliest


def test_what_follows_another_token_is_not_compared() -> None:
    cpu = [*answer("ab", x=-0.6), *answer("cd")]
    assert agreement(cpu, answer("axyz")).wrong is None


def test_the_first_token_may_not_be_another_one_either() -> None:
    assert agreement(answer("a", x=-0.6), answer("x")).wrong is None
    assert agreement(answer("a", x=-5.0), answer("x")).wrong is not None


@pytest.mark.parametrize(("more", "right"), [(LOGPROB_TOLERANCE - 0.01, True), (LOGPROB_TOLERANCE + 0.01, False)])
def test_the_first_token_is_as_likely_as_on_the_cpu(more: float, right: bool) -> None:
    gpu = [Token("a", -0.5 + more), *answer("b")]
    assert (agreement(answer("ab"), gpu).wrong is None) == right


def test_an_empty_answer_is_wrong() -> None:
    assert agreement(answer("a"), []).wrong == "one of the answers is empty"


def test_a_gpu_is_faster_and_more_streams_are_not_slower() -> None:
    cpu = {1: 60.0, 8: 90.0, 32: 100.0}
    assert list(wrong_speeds(cpu, {1: 400.0, 8: 2000.0, 32: 5000.0})) == []
    assert list(wrong_speeds(cpu, None)) == []
    assert "no faster" in " ".join(wrong_speeds(cpu, {1: 50.0, 8: 2000.0, 32: 5000.0}))
    assert "8 streams on the GPU give 300.0" in " ".join(wrong_speeds(cpu, {1: 400.0, 8: 300.0, 32: 5000.0}))
    assert list(wrong_speeds({1: 60.0, 8: 30.0}, None)) == []  # the CPU is there to compare with
    assert "gave nothing" in " ".join(wrong_speeds({1: 0.0}, None))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"layers": (0, 31)}, "only 0 of 31 layers"),
        ({"layers": None}, None),  # NVML tells
        ({"taken": None}, "NVML does not tell"),
        ({"taken": None, "layers": None}, "neither the log nor NVML"),
        ({"taken": 20 * MIB, "estimate": 20 * MIB}, "can't be the model"),
        ({"estimate": 949 * MIB}, "-5% off"),
        ({"estimate": 951 * MIB}, None),
        ({"estimate": 1299 * MIB}, None),
        ({"estimate": 1310 * MIB}, "+31% off"),
        ({"freed_after": None}, f"not free again {FREED_WITHIN:g} s after"),
    ],
)
def test_layers_and_memory_are_where_they_are_said_to_be(changed: dict[str, object], reason: str | None) -> None:
    found = " ".join(wrong_on_gpu(replace(RIGHT, **changed)))  # type: ignore[arg-type]
    assert reason in found if reason else found == ""


def test_the_layers_are_known_however_much_the_engine_wrote_since_its_load(tmp_path: Path) -> None:
    binary = write_binary(tmp_path)
    first, rest = binary.read_text().split("\n", 1)
    noise = "i=0; while [ $i -lt 500 ]; do echo noise; i=$((i + 1)); done >&2"  # more lines than the service keeps
    binary.write_text(f"{first}\necho 'load_tensors: offloaded 30/31 layers to GPU' >&2\n{noise}\n{rest}")
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    with service(binary, model, gpu=False) as there:
        watch = OnGpuWatch(there)
        assert there.answer(GPU, "once upon a time", 4)["usage"]["completion_tokens"]
        found = watch.look()
        assert there.ask("GET", f"/admin/models/{GPU}")["state"] == "stopped"
    assert (found.layers, found.file_size) == ((30, 31), model.stat().st_size)


def ran(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_what_can_not_be_measured_is_no_success() -> None:
    done = ran("--backend=cpu", "--binary=/nowhere/llama-server", "--model=/nowhere.gguf")
    assert (done.returncode, done.stdout) == (2, "")
    assert "NOTHING WAS MEASURED" in done.stderr


def test_an_answer_that_is_not_understood_is_no_success(tmp_path: Path) -> None:
    # The fake's answers have no logprobs.
    done = ran(
        *("--backend=cpu", f"--binary={write_binary(tmp_path)}"), f"--model={write_tiny_gguf(tmp_path / 'tiny.gguf')}"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("NOTHING WAS MEASURED: an answer was not understood: ")


def test_without_a_gpu_the_cpu_is_not_measured_first(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    binary = write_binary(tmp_path, start_counter=starts)
    done = ran(f"--binary={binary}", f"--model={write_tiny_gguf(tmp_path / 'tiny.gguf')}", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "NOTHING WAS MEASURED: no NVIDIA GPU\n")
    assert not starts.exists()


def test_a_llama_server_that_uses_no_nvidia_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvidia = Gpus(FakeNvml(Gpu()))
    require_gpu(nvidia)
    (tmp_path / "cuda").mkdir()
    require_gpu(nvidia, write_binary(tmp_path / "cuda", devices=["CUDA0"]))
    with pytest.raises(RuntimeError, match="names none of CUDA"):
        require_gpu(nvidia, write_binary(tmp_path, devices=["Vulkan0"]))


@pytest.mark.parametrize("tokens", ["0", "-5", str(WINDOW - 63), "many"])
def test_tokens_that_can_not_be_made_are_refused(tokens: str) -> None:
    done = ran(f"--tokens={tokens}", "--backend=cpu", "--binary=/nowhere", "--model=/nowhere.gguf")
    assert (done.returncode, done.stdout) == (2, "")
    assert "argument --tokens" in done.stderr


def test_without_its_packages_it_says_that_nothing_was_measured() -> None:
    done = subprocess.run([sys.executable, "-S", "-E", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NOTHING WAS MEASURED" in done.stderr
