"""The benchmark's pieces run. Nothing is timed here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.load import ERRORS, Case, Sample, drive, find_wrk
from benchmarks.overhead import SHORT, STREAM, TOKENS, Row, added_ms, parse, report, show, together
from benchmarks.targets import Child, service, straight, tried
from tests.gguf_files import write_tiny_gguf


def sample(p50_ms: float = 1.0, **errors: int) -> Sample:
    return Sample(1000, 2.0, p50_ms, 2.0, 3.0, 0.5, {kind: errors.get(kind, 0) for kind in ERRORS})


def row(leg: str, p50_ms: float) -> Row:
    return Row("mock", "short", 1, leg, sample(p50_ms), 0.0, 0.5, kept=True)


@pytest.fixture
def mock(short_folder: Path) -> Child:
    return Child("mock", write_tiny_gguf(short_folder / "tiny.gguf"), slots=2)


def test_straight_and_service_answer_alike(mock: Child, short_folder: Path) -> None:
    with straight(mock, short_folder) as child, service(mock, short_folder) as front:
        for target in (child, front):
            assert tried(target, SHORT).tokens == 0
            assert tried(target, STREAM).tokens == TOKENS


@pytest.mark.skipif(find_wrk() is None, reason="wrk is not installed")
def test_wrk_counts_answers_and_failures(mock: Child, short_folder: Path) -> None:
    with straight(mock, short_folder) as child:
        good = drive(child, SHORT, connections=2, seconds=1)
        bad = drive(child, Case("none", "/nowhere", "{}"), connections=1, seconds=1)
    assert (good.failed, good.rate > 0) == (0, True)
    assert (bad.errors["status"], bad.rate) == (bad.requests, 0.0)


def test_failed_answers_do_not_count_in_the_rate() -> None:
    assert (sample(status=100).rate, sample().cpu_us) == (450, 500)


def test_rounds_are_summed_and_the_worst_kept() -> None:
    both = together([sample(1.0, read=1), sample(3.0, read=2)])
    assert (both.requests, both.seconds, both.p50_ms, both.errors["read"]) == (2000, 4.0, 2.0, 3)


def test_report_tells_what_the_service_adds() -> None:
    rows = [row("straight", 0.1), row("service", 0.3)]
    assert added_ms(rows, "mock") == pytest.approx(0.2)
    assert json.loads(json.dumps(report(rows)))["results"][1]["answers_per_second"] == 500
    console = Console(width=120, record=True)
    show(console, rows)
    assert "adds 0.200 ms" in console.export_text()


def test_child_is_native_only_where_there_is_a_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wrk").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMAHERD_LLAMA__BINARY", raising=False)
    assert parse([]).children == ["embedded", "mock"]
    assert parse(["--binary", "/some/llama-server"]).children == ["native", "mock"]
    with pytest.raises(SystemExit):
        parse(["--children", "native"])
