"""The benchmark's pieces run. Nothing is timed here."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.hf import MIB, Memory
from benchmarks.hf import Row as HfRow
from benchmarks.hf import parse as parse_hf
from benchmarks.hf import rounds as hf_rounds
from benchmarks.hf import show as show_hf
from benchmarks.hf_generate import Generator
from benchmarks.hf_rivals import Setting, left_out, plain_generate, prepared
from benchmarks.hf_streams import ANSWER, PROMPT, Answer, Ask, Chat, Seen, as_json, asks, one_round, rates
from benchmarks.load import ERRORS, Case, Sample, drive, find_wrk
from benchmarks.overhead import SHORT, STREAM, TOKENS, Row, added_ms, parse, report, show, together
from benchmarks.policy import GB, POLICIES, Model, Request, lower_bound, replay, run
from benchmarks.policy import parse as parse_policy
from benchmarks.targets import Child, service, straight, tried
from manager.policy import make_policy
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


def least_load_seconds(trace: Sequence[Request], memory: int) -> float:
    """The optimum, by trying everything: the cheapest way to each set of models that may be loaded."""
    ways: dict[frozenset[Model], float] = {frozenset(): 0.0}
    for request in trace:
        after: dict[frozenset[Model], float] = {}
        for loaded, seconds in ways.items():
            others = loaded - {request.model}
            paid = seconds + (0.0 if request.model in loaded else request.model.load)
            for kept in itertools.chain.from_iterable(
                itertools.combinations(others, count) for count in range(len(others) + 1)
            ):
                now = frozenset({request.model, *kept})
                if sum(model.size for model in now) <= memory:
                    after[now] = min(paid, after.get(now, paid))
        ways = after
    return min(ways.values())


def tiny_trace(rng: random.Random, *, sizes: Sequence[int]) -> list[Request]:
    models = [Model(f"m{number}", rng.choice(sizes), rng.uniform(1, 20)) for number in range(5)]
    return [Request(60.0 * number, rng.choice(models)) for number in range(rng.randint(1, 16))]


@pytest.mark.parametrize("seed", range(40))
def test_bound_never_exceeds_the_optimum_and_no_policy_goes_below_either(seed: int) -> None:
    rng = random.Random(seed)
    trace = tiny_trace(rng, sizes=range(1, 9))
    memory = rng.randint(8, 20)
    least = least_load_seconds(trace, memory)
    assert lower_bound(trace, memory, lambda model: model.load) <= least + 1e-6
    for make in POLICIES.values():
        assert replay(trace, memory, make()).load_seconds >= least - 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_bound_is_the_optimum_where_all_sizes_are_equal(seed: int) -> None:
    rng = random.Random(seed)
    trace = tiny_trace(rng, sizes=[1])
    assert lower_bound(trace, 2, lambda model: model.load) == pytest.approx(least_load_seconds(trace, 2), rel=0.01)


def test_replay_counts_loads_and_the_time_waited_for_them() -> None:
    one, two = Model("one", GB, 2.0), Model("two", GB, 4.0)
    trace = [Request(0.0, one), Request(10.0, one), Request(20.0, two), Request(21.0, one)]
    outcome = replay(trace, GB, make_policy("lru"))
    waited_for_the_one_before = 20.0 + 4.0 + 0.5 - 21.0
    assert (outcome.loads, outcome.load_seconds) == (3, 8.0)
    assert outcome.wait == pytest.approx((2.0 + 4.0 + waited_for_the_one_before + 2.0) / 4)


def test_policies_stay_above_the_bound_in_all_traces() -> None:
    console = Console(width=120, record=True)
    result = run(parse_policy(["--requests", "60", "--seeds", "1"]), console)
    assert result["results"] == json.loads(json.dumps(result["results"]))
    by_case: dict[str, dict[str, float]] = {}
    for row in result["results"]:
        by_case.setdefault(f"{row['trace']} {row['memory']}", {})[row["policy"]] = row["load_seconds"]
    for seconds in by_case.values():
        bound = seconds.pop("bound")
        assert seconds.keys() == POLICIES.keys()
        assert 0 < bound <= min(seconds.values()) + 1e-6
    assert "lru: load seconds to those of lru 1.00" in console.export_text()


class TalkativeHandler(BaseHTTPRequestHandler):
    """Chats in as many pieces as tokens are asked for; with the prompt `short` in one less, with `broken` in none."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, tokens = asked["messages"][0]["content"], asked["max_tokens"]
        tokens -= prompt == "short"
        deltas: list[dict[str, str]] = [{"role": "assistant"}, *[{"content": "x"}] * tokens, {}]
        events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
        events[-1]["usage"] = {"completion_tokens": tokens}
        self.send_response(200)
        self.end_headers()
        for event in [{"error": "no memory"}] if prompt == "broken" else events:
            self.wfile.write(b"data: %b\n\n" % json.dumps(event).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def talkative() -> Iterator[Chat]:
    with ThreadingHTTPServer(("127.0.0.1", 0), TalkativeHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Chat(f"http://127.0.0.1:{server.server_port}", {}, {})
        server.shutdown()
        thread.join()


def seen(seconds: float, *firsts: float, cpu: float = 0.0) -> Seen:
    return Seen(100, seconds, firsts, cpu)


def test_each_round_is_the_same_work_with_other_prompts() -> None:
    first, second = asks(1, 16), asks(2, 16)
    for (low, high), sizes in (
        (PROMPT, [[len(ask.prompt.split()) for ask in wanted] for wanted in (first, second)]),
        (ANSWER, [[ask.tokens for ask in wanted] for wanted in (first, second)]),
    ):
        assert sorted(sizes[0]) == sorted(sizes[1])
        assert low <= min(sizes[0]) < (low + high) / 2 < max(sizes[0]) <= high
    assert not {ask.prompt for ask in first} & {ask.prompt for ask in second}
    assert asks(1, 16) == first


def test_round_counts_all_answers_and_waits_for_each_first_token(talkative: Chat) -> None:
    done = one_round(talkative, [Ask("a", 7), Ask("b", 8), Ask("c", 9)], 2)
    assert (done.tokens, len(done.firsts)) == (24, 3)
    assert 0 < done.first <= done.worst <= done.seconds


@pytest.mark.parametrize(
    ("prompt", "words"), [("short", "generated 7 tokens and not 8"), ("broken", "broke off: no memory")]
)
def test_answer_that_ends_too_early_fails_the_round(talkative: Chat, prompt: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        one_round(talkative, [Ask("a", 8), Ask(prompt, 8)], 2)


def test_tokens_outside_the_time_do_not_count_in_a_rate() -> None:
    assert Answer(0.0, (1.0, 2.0, 3.0, 4.0), tokens=8).within(2.0, 4.0) == 4


def test_rates_of_several_servers_are_measured_at_once(talkative: Chat) -> None:
    # One prompt after the other comes to the end of the time, so the second server would get none of it.
    assert all(rate > 0 for rate in rates([talkative, talkative], 1, 0.2, 0))


def test_ratio_is_to_the_best_rival_round_by_round() -> None:
    row = HfRow(
        "greedy",
        8,
        {"ours": [seen(1), seen(2), seen(40)], "serve": [seen(2), seen(3), seen(50)], "generate": [seen(9)] * 3},
    )
    assert (row.best_rival, row.rate("ours"), row.ratio) == ("serve", 50, 1.5)
    assert HfRow("greedy", 8, {"serve": [seen(1)]}).ratio is None


def test_table_tells_waits_and_memory() -> None:
    row = HfRow("sampled", 4, {"ours": [seen(1, 0.5, 0.7, cpu=0.2)], "serve": [seen(2, 0.1, 2.0, cpu=0.6)]})
    console = Console(width=160, record=True)
    show_hf(console, [row], [Memory("ours", "sampled", end=3 * MIB, idle=MIB, estimate=4 * MIB)])
    text = console.export_text()
    for cell in ("100.0", "2.00", "0.60 / 0.70", "6.0", "2 MiB of it added by the model; 4 MiB estimated (0.50)"):
        assert cell in text


class Recorded:
    """A leg that notes when it was asked for what."""

    pid = os.getpid()

    def __init__(self, name: str, calls: list[tuple[str, str]]) -> None:
        self._name, self._calls = name, calls

    def run(self, wanted: Sequence[Ask], width: int) -> Seen:
        self._calls.append((self._name, wanted[0].prompt))
        return Seen(1, 1.0, (1.0,))


def test_legs_take_turns_with_the_same_requests(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    calls: list[tuple[str, str]] = []
    legs = {name: Recorded(name, calls) for name in ("ours", "serve")}
    done = hf_rounds(legs, 2, parse_hf(["--folder", str(tmp_path), "--rounds", "2"]))
    assert {name: len(rounds) for name, rounds in done.items()} == {"ours": 2, "serve": 2}
    warm, timed = calls[:2], calls[2:]
    assert [name for name, _ in timed] == ["ours", "serve", "serve", "ours"]
    prompts = [prompt for _, prompt in timed]
    assert (prompts[0], prompts[2]) == (prompts[1], prompts[3])
    assert len({prompts[0], prompts[2], warm[0][1]}) == 3


@pytest.mark.parametrize("mode", ["greedy", "sampled"])
def test_rivals_get_the_folder_with_the_rules_of_the_mode_and_no_end(tmp_path: Path, mode: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    own = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.3, "min_p": 0.2}
    (model / "generation_config.json").write_text(json.dumps(own))
    copy = prepared(model, mode, tmp_path)
    rules = {"do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9} if mode == "sampled" else {}
    expected = {"bos_token_id": 1, "eos_token_id": -1, "do_sample": False, **rules}
    assert json.loads((copy / "generation_config.json").read_text()) == expected
    assert (copy / "config.json").read_text() == "{}"
    assert json.loads((model / "generation_config.json").read_text()) == own


def test_rival_that_lacks_a_package_is_left_out_with_the_reason(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'fastapi'\" >&2\nexit 1\n")
    python.chmod(0o755)
    reason = left_out("serve", python)
    assert reason is not None
    assert "No module named 'fastapi'" in reason
    assert left_out("ours", python) is None
    python.write_text("#!/bin/sh\n")
    assert left_out("serve", python) is None


@pytest.mark.parametrize("mode", ["greedy", "sampled"])
def test_plain_generate_goes_batch_by_batch_to_the_asked_lengths(
    tiny_text_folder: Path, tmp_path: Path, mode: str
) -> None:
    generator = Generator(str(prepared(tiny_text_folder, mode, tmp_path)))
    done = generator.run(as_json([Ask("a longer prompt", 5), Ask("b", 9), Ask("c", 3)]), 2)
    first, second, third = done["firsts"]
    assert first == second
    assert 0 < third < done["seconds"]


def test_plain_generate_answers_as_a_process(tiny_text_folder: Path, short_folder: Path) -> None:
    setting = Setting(tiny_text_folder, threads=1, parallel=1, python=Path("no-python"))
    with plain_generate(setting, "greedy", short_folder) as leg:
        assert leg.run([Ask("a", 5), Ask("b", 9)], 2).tokens == 14
