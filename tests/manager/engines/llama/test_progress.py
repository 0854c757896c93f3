"""Progress as real children told it, and what else may come on their stdout."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manager.engines.llama.progress import ChildLog, LoadProgress

# llama-server b11434, `--load-mode none`, a file of 909 MB.
RECORDED = (
    b'cmd_child_to_router:state:{"state":"loading","payload":{"stages":["text_model"],"current":"text_model",'
    b'"value":0.0}}\n',
    b'cmd_child_to_router:state:{"state":"loading","payload":{"stages":["text_model"],"current":"text_model",'
    b'"value":0.46437039971351624}}\n',
    b'cmd_child_to_router:state:{"state":"loading","payload":{"stages":["text_model"],"current":"text_model",'
    b'"value":1.0}}\n',
    b'cmd_child_to_router:state:{"state":"ready","payload":{"id":"m","aliases":["m"],"tags":[],"object":"model"}}\n',
)


class Heard:
    """A LoadProgress, the values that it had, and the lines that it passed on."""

    def __init__(self, **sizes: int) -> None:
        self.passed: list[bytes] = []
        self.values: list[float | None] = []
        self._progress = LoadProgress(sizes or {"text_model": 100}, self.passed.append)

    def feed(self, data: bytes) -> float | None:
        self._progress.feed(data)
        self.values.append(self._progress.value)
        return self._progress.value

    def tell(self, stage: str, value: Any) -> float | None:
        report = {"state": "loading", "payload": {"stages": ["text_model"], "current": stage, "value": value}}
        return self.feed(b"cmd_child_to_router:state:" + json.dumps(report).encode() + b"\n")


def test_recorded_load_rises_from_nothing_to_all() -> None:
    heard = Heard()
    for line in RECORDED:
        heard.feed(line)
    assert heard.values == [0.0, pytest.approx(0.464, abs=0.001), 1.0, 1.0]
    assert heard.passed == []


def test_bytes_may_come_in_any_pieces() -> None:
    heard = Heard()
    for number in b"".join(RECORDED[:2]):
        heard.feed(bytes([number]))
    assert heard.values[-1] == pytest.approx(0.464, abs=0.001)


def test_nothing_is_known_before_the_child_has_told_anything() -> None:
    assert Heard().feed(b"") is None


def test_stages_count_by_the_size_of_their_files() -> None:
    heard = Heard(text_model=600, spec_model=100, mmproj_model=300)
    told = [("text_model", 0.5), ("text_model", 1), ("spec_model", 1), ("mmproj_model", 0.5), ("mmproj_model", 1)]
    assert [heard.tell(*each) for each in told] == pytest.approx([0.3, 0.6, 0.7, 0.85, 1.0])


def test_projector_that_is_only_measured_before_the_load_does_not_count() -> None:
    heard = Heard(text_model=50, mmproj_model=50)
    assert heard.tell("mmproj_model", 1.0) is None
    assert heard.tell("text_model", 0.5) == 0.25


def test_progress_never_falls() -> None:
    heard = Heard()
    for value in (0.0, 0.6, 0.2, 0.0, 7, -1, 0.4):
        heard.tell("text_model", value)
    assert heard.values == sorted(value for value in heard.values if value is not None)
    assert heard.values[-1] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"state": "loading"}',
        b'{"state": "loading", "payload": {"stage": "mmproj_model"}}',
        b'{"state": "loading", "payload": {"current": "text_model", "value": "much"}}',
        b'{"state": "loading", "payload": {"current": ["text_model"], "value": 1}}',
        b'{"state": "sleeping", "payload": {}}',
        b"\xff\xfe",
    ],
)
def test_reports_that_make_no_sense_change_nothing(text: bytes) -> None:
    heard = Heard()
    heard.tell("text_model", 0.25)
    assert heard.feed(b"cmd_child_to_router:state:" + text + b"\n") == 0.25
    assert heard.passed == []


def test_memory_tells_of_what_the_child_is_silent_about() -> None:
    progress = LoadProgress({"text_model": 1000}, print)
    told = []
    for size in (500, 700, 1200, 900, 9000):
        progress.note_resident(size)
        told.append(progress.value)
    assert told == [0.0, 0.2, 0.7, 0.7, 0.9]


def test_child_is_mapping_from_the_begin_to_the_first_progress() -> None:
    progress = LoadProgress({"text_model": 1000}, print)
    assert not progress.mapping
    for line, mapping in zip(RECORDED, (True, False, False, False), strict=True):
        progress.feed(line)
        assert progress.mapping is mapping


def test_other_lines_are_passed_on_whole() -> None:
    heard = Heard()
    heard.feed(b"Traceback: a\nhalf ")
    heard.feed(b"a line\ncmd_child_to_router:ready\n")
    assert heard.passed == [b"Traceback: a\n", b"half a line\n"]


def test_line_that_never_ends_does_not_fill_memory() -> None:
    heard = Heard()
    for _ in range(40):
        heard.feed(bytes(4096))
    assert sum(map(len, heard.passed)) >= 64 * 1024


async def test_log_tells_when_the_child_says_that_it_ends() -> None:
    log = ChildLog()
    log.feed(b"0.00.929.951 I srv    operator(): model loaded\n")
    assert not log.ending.is_set()
    assert log.feed(b"0.00.929.951 I srv    operator(): operator(): cleaning up before exit...\n")
    assert log.ending.is_set()
    assert len(log.tail()) == 2
