from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from manager.catalog import load_catalog
from manager.cli import main
from manager.memory_ledger import Ledger
from manager.settings import load_settings
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.gguf_files import write_tiny_gguf


class Inspect(Protocol):
    """`llamaherd model inspect` in this process: exit status, standard output, standard error."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def inspect(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inspect:
    """In a folder of its own, with no settings in the environment, and the launcher that is always there."""
    monkeypatch.setenv("LLAMAHERD_LLAMA__LAUNCHER", "embedded")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llamaherd", "model", "inspect", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def list_models(**entries: dict[str, Any]) -> None:
    models = Path("data/models")
    models.mkdir(parents=True)
    write_tiny_gguf(models / "tiny.gguf", file_type=None)
    (models / "empty.gguf").write_bytes(EMPTY_GGUF)
    (models / "cut.gguf").write_bytes((models / "tiny.gguf").read_bytes()[:5000])
    Path("data/models.json").write_text(json.dumps({name: {"params": params} for name, params in entries.items()}))


def test_shows_what_the_model_is_and_what_it_takes(inspect: Inspect) -> None:
    list_models(tiny={"model": "tiny.gguf", "ctxSize": 512, "parallel": 3})
    code, out, err = inspect("tiny")
    assert (code, err) == (0, "")
    rows = dict(re.findall(r"^([A-Z][^:]+): +(.+)$", out, re.MULTILINE))
    assert rows["Architecture"] == "llama, 0.1 million parameters, unknown (16.0 bits per weight)"
    assert rows["Trained window"] == "4,096 tokens"
    assert rows["Layers"] == "2, heads 4, of keys and values 2"
    assert rows["Chat template"] == "in the file"
    assert rows["Runs with"] == "the embedded launcher, slots: 3, with a cache each"
    assert rows["Fits now"] == "yes"
    assert re.search(r"^  cache +host +0\.4 MB$", out, re.MULTILINE)
    assert "prompt cache, up to 1.1 GB" in out


def test_json_has_every_number_in_bytes(inspect: Inspect) -> None:
    list_models(tiny={"model": "tiny.gguf", "ctxSize": 512, "parallel": 1, "cacheRamMib": -1})
    code, out, _ = inspect("tiny", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["architecture"] == "llama"
    assert shown["memory"]["total"] == sum(part["size"] for part in shown["memory"]["parts"])
    assert {"name": "cache", "device": "host", "size": 512 * 2 * 2 * 32 * 2} in shown["memory"]["parts"]
    assert shown["memory"]["later"] == [{"name": "prompt cache", "device": "host", "size": -1}]
    assert shown["free"][0]["device"] == "host"
    assert shown["fits"] is True


def test_what_does_not_fit_is_said_with_both_numbers(inspect: Inspect) -> None:
    list_models(huge={"model": "tiny.gguf", "ctxSize": 2**33, "parallel": 1})
    code, out, _ = inspect("huge")
    assert code == 0
    assert re.search(r"^Fits now: +no: host needs [\d.]+ GB and has [\d.]+ GB$", out, re.MULTILINE)
    assert json.loads(inspect("huge", "--json")[1])["fits"] is False


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "does not exist"),
        ("cut", "cut off"),
        ("empty", "does not say its architecture"),
        ("gone", "does not exist"),
        ("adapted", "does not exist"),
    ],
)
def test_what_can_not_be_read_is_an_error_without_output(inspect: Inspect, name: str, reason: str) -> None:
    list_models(
        cut={"model": "cut.gguf"},
        empty={"model": "empty.gguf"},
        gone={"model": "gone.gguf"},
        adapted={"model": "tiny.gguf", "lora": "gone.gguf"},
    )
    code, out, err = inspect(name)
    assert (code, out) == (1, "")
    assert err.startswith("llamaherd: ")
    assert reason in err
    assert "Traceback" not in err


def write_folder(monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
    """A Hugging Face folder, hub/some-model, with weights of 512 bytes."""
    folder = Path("hub/some-model")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [16, 16], "data_offsets": [0, 512]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(512))
    monkeypatch.setenv("HF_MODELS_DIR", str(folder.parent.absolute()))


def test_a_hugging_face_folder_is_shown_and_what_runs_it(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 99}
    write_folder(monkeypatch, architectures=["SomeForCausalLM"], max_position_embeddings=128, **shape)
    code, out, err = inspect("some-model")
    assert (code, err) == (0, "")
    rows = dict(re.findall(r"^([A-Z][^:]+): +(.+)$", out, re.MULTILINE))
    assert rows["Architecture"] == "SomeForCausalLM, 0.0 million parameters, BF16"
    assert rows["Layers"] == "3, heads 2, of keys and values 2"
    assert rows["Chat template"] == "none in the folder"
    assert rows["Runs with"] == "transformers in the service, sequences at once: 16"
    shown = json.loads(inspect("some-model", "--json")[1])
    assert {"name": "weights", "device": "host", "size": 512} in shown["memory"]["parts"]
    assert (shown["launcher"], shown["parameters"]) == (None, 256)
    monkeypatch.setitem(sys.modules, "torch", None)  # by which Python says that it is not there
    rows = dict(re.findall(r"^([A-Z][^:]+): +(.+)$", inspect("some-model")[1], re.MULTILINE))
    assert rows["Runs with"].startswith("nothing: Hugging Face models need torch, which is not installed; ")


def test_what_is_missing_in_a_hugging_face_folder_is_named(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(monkeypatch, architectures=["SomeForCausalLM"])
    code, out, err = inspect("some-model")
    assert (code, out) == (1, "")
    assert err == "llamaherd: some-model/config.json: num_hidden_layers is missing\n"


# what was learnt, and what there is


def learn(name: str, peak: int) -> None:
    """As a service would that runs in this folder."""

    settings = load_settings()
    entry = load_catalog(settings).find(name).entry

    async def live() -> None:
        ledger = Ledger(settings)
        await ledger.expected(entry)
        ledger.learn(entry, {"host": peak}, served=True)
        await ledger.flush()

    asyncio.run(live())


def test_what_was_measured_before_is_shown_with_what_is_expected_of_it(inspect: Inspect) -> None:
    list_models(tiny={"model": "tiny.gguf", "ctxSize": 512, "parallel": 1})
    assert "Measured before" not in inspect("tiny")[1]
    assert json.loads(inspect("tiny", "--json")[1])["learnt"] == {}
    learn("tiny", 200_000_000)
    assert "\nMeasured before:  200.0 MB on host; expected: 206.0 MB\n" in inspect("tiny")[1]
    shown = json.loads(inspect("tiny", "--json")[1])
    assert (shown["learnt"], shown["needed"]) == ({"host": 200_000_000}, {"host": 206_000_000})


def test_the_room_for_all_models_is_shown_with_where_it_comes_from(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_models(tiny={"model": "tiny.gguf"})
    assert re.search(
        r"^Room on host: +[\d.]+ GB for all models \(what is free less memory\.host_reserve\)$",
        inspect("tiny")[1],
        re.MULTILINE,
    )
    monkeypatch.setenv("LLAMAHERD_MEMORY__HOST_BUDGET", "1000000")
    out = inspect("tiny")[1]
    assert re.search(r"^Room on host: +1\.0 MB for all models \(memory\.host_budget\)$", out, re.MULTILINE)
    # It would fit into what is free, and not into the budget.
    assert re.search(r"^Fits now: +no: host needs [\d.]+ MB and has 1\.0 MB$", out, re.MULTILINE)
    assert json.loads(inspect("tiny", "--json")[1])["room"] == {"host": 1_000_000}


def test_a_model_that_drafts_is_a_part(inspect: Inspect) -> None:
    list_models(
        both={"model": "tiny.gguf", "draftModel": "tiny.gguf"},
        lost={"model": "tiny.gguf", "draftModel": "gone.gguf"},
    )
    assert re.search(r"^  draft +host +[\d.]+ MB$", inspect("both")[1], re.MULTILINE)
    code, out, err = inspect("lost")
    assert (code, out) == (1, "")
    assert "gone.gguf does not exist" in err
