"""The whole service in a word: what counts first, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from manager import summary as module
from manager.state import ModelState, ModelStatus
from manager.summary import ServiceStatus, describe, summary

STOPPED, STARTING, READY, DRAINING, STOPPING, FAILED = ModelState
NOW = 1_000_000.0


class Clock:
    """Stands in for the time module; it stands still."""

    def time(self) -> float:
        return NOW


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", Clock())


def model(name: str, state: ModelState, ago: float = 0.0, **more: Any) -> ModelStatus:
    """A model that has been in that state for so many seconds."""
    return ModelStatus(name, state, NOW - ago, **more)


def test_a_service_that_never_loaded_anything_is_idle() -> None:
    assert summary([]) == ServiceStatus("idle", "No model is loaded.", ())


def test_models_that_are_stopped_leave_it_idle() -> None:
    assert summary([model("a", STOPPED), model("b", STOPPED, 5)]) == ServiceStatus("idle", "No model is loaded.", ())


@pytest.mark.parametrize("other", [STOPPED, READY, DRAINING, STOPPING, FAILED])
def test_a_load_counts_before_everything_newer(other: ModelState) -> None:
    status = summary([model("b", other), model("a", STARTING, 60)])
    assert (status.status, status.info) == ("loading", "Loading a: 60 s so far.")


@pytest.mark.parametrize("leaving", [DRAINING, STOPPING])
@pytest.mark.parametrize("other", [STOPPED, READY, FAILED])
def test_an_unload_counts_before_what_has_settled(leaving: ModelState, other: ModelState) -> None:
    status = summary([model("b", other), model("a", leaving, 60)])
    assert (status.status, status.info) == ("unloading", "Unloading a.")


@pytest.mark.parametrize(("newer", "word"), [(READY, "ready"), (FAILED, "error")])
def test_of_what_has_settled_the_newest_counts(newer: ModelState, word: str) -> None:
    (older,) = {READY, FAILED} - {newer}
    for models in ([model("a", older, 2), model("b", newer, 1)], [model("b", newer, 1), model("a", older, 2)]):
        status = summary(models)
        assert status.status == word
        assert "b " in status.info


def test_a_model_that_stopped_lately_hides_no_failure() -> None:
    assert summary([model("a", FAILED, 60, error="a fell over"), model("b", STOPPED)]).info == "a fell over"


def test_models_that_are_loaded_are_named_whatever_else_counts() -> None:
    models = [model("a", READY, 3), model("b", STOPPING), model("c", DRAINING), model("d", STARTING), model("e", READY)]
    assert summary(models).models == ("a", "c", "e")


@pytest.mark.parametrize(
    ("progress", "ago", "told"),
    [(None, 12.9, "12 s so far"), (0.0, 0.0, "0%, 0 s so far"), (0.426, 3.0, "43%, 3 s so far"), (1.0, 61, "100%, 61")],
)
def test_a_load_tells_how_far_it_is_and_how_long_it_takes(progress: float | None, ago: float, told: str) -> None:
    status = describe(model("a", STARTING, ago, progress=progress), ())
    assert status.status == "loading"
    assert status.info.startswith(f"Loading a: {told}")


def test_a_failure_tells_its_reason() -> None:
    assert describe(model("a", FAILED, error="a fell over"), ("b",)) == ServiceStatus("error", "a fell over", ("b",))
    assert describe(model("a", FAILED), ()).info == "a failed."


def test_a_service_is_ready_while_another_model_stays() -> None:
    assert describe(model("a", STOPPED), ("b",)) == ServiceStatus("ready", "a is unloaded.", ("b",))
    assert describe(model("a", STOPPED), ()) == ServiceStatus("idle", "a is unloaded.", ())


@pytest.mark.parametrize("state", ModelState)
def test_every_state_has_a_word_that_clients_know_and_names_its_model(state: ModelState) -> None:
    status = describe(model("a", state), ("x",))
    assert status.status in {"idle", "loading", "ready", "unloading", "error"}
    assert "a" in status.info.replace(".", "").split() or "a:" in status.info
    assert status.models == ("x",)
