"""What scripts/gpu_check.py calls right and wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

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


def test_what_can_not_be_measured_is_no_success() -> None:
    argv = [sys.executable, str(SCRIPT), "--backend=cpu", "--binary=/nowhere/llama-server", "--model=/nowhere.gguf"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NOTHING WAS MEASURED" in done.stderr


def test_without_its_packages_it_says_that_nothing_was_measured() -> None:
    done = subprocess.run([sys.executable, "-S", "-E", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NOTHING WAS MEASURED" in done.stderr
