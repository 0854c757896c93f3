"""What a folder's JSON files say. A value that can't be used costs no load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manager.engines.hf.loading.folder import sampling_defaults


def defaults(folder: Path, **given: Any) -> dict[str, float | int]:
    (folder / "generation_config.json").write_text(json.dumps(given))
    return sampling_defaults(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 5),
        ("top_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", [1]),
        ("top_k", -2),
        ("top_k", float("nan")),
        ("repetition_penalty", 0),
    ],
)
def test_a_default_that_cannot_be_used_is_left_out_and_the_log_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: Any
) -> None:
    assert defaults(tmp_path, **{"top_k": 5, name: value}) == ({} if name == "top_k" else {"top_k": 5})
    assert f"generation_config.json: {name} " in caplog.text


def test_defaults_have_llama_cpps_names_and_kinds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"temperature": 0.5, "top_k": 40.0, "top_p": 1, "min_p": 0, "typical_p": 1.0, "repetition_penalty": 1.1}
    found = defaults(tmp_path, **given, penalty_alpha=3, top_h=None)
    renamed = {**given, "repeat_penalty": 1.1}
    del renamed["repetition_penalty"]
    assert found == renamed
    assert isinstance(found["top_k"], int)
    assert not caplog.text
