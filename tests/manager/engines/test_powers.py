"""Engines of other packages in a text of models.json that comes over HTTP."""

from __future__ import annotations

import json
import sys
from typing import Any

from manager.models_text import check_models_text
from manager.settings import Settings
from tests.conftest import MakeSettings
from tests.manager.engines.conftest import Install

CODE = """
class Params(ModelParams):
    command: str = ""

KIND = EngineKind(params=Params, make=lambda entry, around: None)
"""


def mistakes(settings: Settings, **params: Any) -> list[tuple[str, str]]:
    text = json.dumps({"new": {"engine": "own", "params": {"model": "m", **params}, "pinned": True}})
    return [(mistake["path"], mistake["message"]) for mistake in check_models_text(settings, text)]


def test_only_what_the_file_has_already_is_taken_and_nothing_else_is_imported(
    install: Install, make_settings: MakeSettings
) -> None:
    install("herd_powers", CODE)
    settings = make_settings()
    file = settings.storage.models_file
    ((path, message),) = mistakes(settings)
    assert path == "new.engine"
    assert message.startswith("'own' with these params can't be given over HTTP")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"a": {"engine": "own", "params": {"model": "m", "command": "x"}}}))
    for params in ({}, {"command": "y"}, {"command": "x", "temperature": 1}):
        ((path, _),) = mistakes(settings, **params)
        assert path == "new.engine"
    assert "herd_powers" not in sys.modules
    assert mistakes(settings, command="x") == []
    assert "herd_powers" in sys.modules
