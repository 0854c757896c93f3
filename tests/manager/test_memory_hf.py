"""Estimates of Hugging Face folders, made here: a config.json and files with headers and no data worth reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manager.entry import LlamaParams, ModelEntry
from manager.errors import LoadFailed
from manager.memory import Estimate
from manager.memory_hf import estimate_folder, folder_files, read_folder

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "hidden_size": 64, "intermediate_size": 128,
    "max_position_embeddings": 2048, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "vocab_size": 320,
}  # fmt: skip
# Of both layers, for each token: keys and values of two heads of 16.
TOKEN = 2 * 2 * 2 * 16


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """`tensors`: type, shape and bytes by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "some-model"
    path.mkdir()
    write_safetensors(
        path / "model.safetensors",
        {"embed": ("BF16", [320, 64], 40960), "norm": ("F32", [64], 256), "scale": ("F8_E4M3", [64, 64], 4096)},
    )
    return path


def configure(folder: Path, without: str = "", **values: Any) -> Path:
    config = {key: value for key, value in {**CONFIG, **values}.items() if key != without}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def expected(folder: Path, **params: Any) -> Estimate:
    return estimate_folder(ModelEntry("m", folder, LlamaParams(model="m", **params), engine="hf"))


def test_weights_are_as_they_are_stored(folder: Path) -> None:
    facts = read_folder(configure(folder))
    assert facts.weights == expected(folder).of("weights") == 40960 + 256 + 4096
    assert facts.parameters == 320 * 64 + 64 + 64 * 64
    assert facts.dtypes == {"BF16": 40960, "F32": 256, "F8_E4M3": 4096}


def test_weights_of_several_files_are_those_that_the_index_names(folder: Path) -> None:
    configure(folder)
    for name in ("a.safetensors", "b.safetensors", "not-named.safetensors"):
        write_safetensors(folder / name, {"w": ("F16", [10, 10], 200)})
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert expected(folder).of("weights") == 400
    assert [path.name for path in folder_files(folder)] == ["config.json", "a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("params", "cells"),
    [
        ({"ctx_size": 512, "parallel": 1}, 512),
        ({"ctx_size": 512, "parallel": 3}, 3 * 512),
        ({"parallel": 1}, 4096),
        ({"ctx_size": 0, "parallel": 1}, 2048),
    ],
)
def test_cache_is_of_all_sequences(folder: Path, params: dict[str, Any], cells: int) -> None:
    assert expected(configure(folder), **params).of("cache") == cells * TOKEN * 2


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"dtype": "float32"}, 4),
        ({"dtype": None, "torch_dtype": "float16"}, 2),
        ({"dtype": None}, 2),  # as most weights are stored
        ({"dtype": "auto"}, 2),
    ],
)
def test_cache_is_of_the_type_that_it_computes_in(folder: Path, values: dict[str, Any], size: int) -> None:
    assert expected(configure(folder, **values), ctx_size=256, parallel=1).of("cache") == 256 * TOKEN * size


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({"num_key_value_heads": None}, 2 * 4 * 16),
        ({"head_dim": 32}, 2 * 2 * 32),
        ({"kv_lora_rank": 8, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}, 4 * (16 + 8 + 12)),
    ],
)
def test_cache_follows_heads_and_their_sizes(folder: Path, values: dict[str, Any], row: int) -> None:
    assert expected(configure(folder, **values), ctx_size=256, parallel=1).of("cache") == 256 * 2 * row * 2


def test_layers_with_a_window_keep_no_more_than_it(folder: Path) -> None:
    configure(folder, layer_types=["sliding_attention", "full_attention"], sliding_window=128)
    assert expected(folder, ctx_size=512, parallel=1).of("cache") == (128 + 512) * TOKEN // 2 * 2
    assert expected(folder, ctx_size=64, parallel=1).of("cache") == 64 * TOKEN * 2


def test_a_window_without_a_list_of_layers_is_not_relied_on(folder: Path) -> None:
    assert expected(configure(folder, sliding_window=128), ctx_size=512, parallel=1).of("cache") == 512 * TOKEN * 2


def test_the_language_model_of_a_model_that_sees_is_read(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["Seeing"], "text_config": CONFIG}))
    facts = read_folder(folder)
    assert (facts.architecture, facts.layers, facts.vocabulary) == ("Seeing", 2, 320)


def test_buffers_follow_the_window_and_the_process_counts(folder: Path) -> None:
    configure(folder)
    short, long = (expected(folder, ctx_size=size, parallel=1) for size in (512, 1024))
    assert short.of("compute") < long.of("compute")
    assert short.of("process") == long.of("process") > 0
    assert short.total == sum(part.size for part in short.parts)


def test_a_chat_template_is_found(folder: Path) -> None:
    assert not read_folder(configure(folder)).chat_template
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert read_folder(folder).chat_template
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").touch()
    assert read_folder(folder).chat_template


# what is missing or odd


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"])
def test_a_missing_key_is_named_with_its_file(folder: Path, key: str) -> None:
    with pytest.raises(LoadFailed, match=rf"^some-model/config\.json: {key} is missing$"):
        read_folder(configure(folder, without=key))


@pytest.mark.parametrize("value", ["2", 0, -1, 2.5, True, [2], 10**30])
def test_an_odd_value_is_named_with_its_key(folder: Path, value: Any) -> None:
    with pytest.raises(LoadFailed, match=r"config\.json: hidden_size is no number above 0: '"):
        read_folder(configure(folder, hidden_size=value))


def test_a_key_of_a_part_is_named_with_the_part(folder: Path) -> None:
    part = {**CONFIG, "num_hidden_layers": None}
    (folder / "config.json").write_text(json.dumps({"model_type": "seeing", "text_config": part}))
    with pytest.raises(LoadFailed, match=r"text_config\.num_hidden_layers is missing"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types lists 1 layers of 2"),
        ({"layer_types": ["sliding_attention"] * 2}, "sliding_window is missing"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is too high"),
        ({"architectures": [], "model_type": None}, "architectures is missing"),
    ],
)
def test_what_does_not_go_together_is_said(folder: Path, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoadFailed, match=reason):
        read_folder(configure(folder, **values))


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_config_that_is_no_object_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(LoadFailed, match=r"^some-model/config\.json holds no JSON object$"):
        read_folder(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (configure(folder) / "model.safetensors").unlink()
    with pytest.raises(LoadFailed, match=r"some-model holds neither model\.safetensors nor"):
        read_folder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone.safetensors"}}')
    with pytest.raises(LoadFailed, match=r"some-model/gone\.safetensors can't be read: No such file"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ('{"weight_map": {}}', "weight_map names no files"),
        ("{}", "weight_map names no files"),
        ('{"weight_map": {"x": "../other.safetensors"}}', "is no name of a file in this folder"),
        ('{"weight_map": {"x": 5}}', "is no name of a file in this folder"),
    ],
)
def test_an_index_that_makes_no_sense_is_named(folder: Path, index: str, reason: str) -> None:
    (configure(folder) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LoadFailed, match=rf"index\.json: weight_map .*{reason.removeprefix('weight_map ')}"):
        read_folder(folder)


def damaged(text: bytes, *, data: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(data)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "is no whole safetensors file"),
        (damaged(b"{}")[:-1], "is no whole safetensors file"),
        (damaged(b"[]"), "holds no JSON object"),
        (damaged(b'{"w": 5}'), "w is no description of a tensor"),
        (damaged(b'{"w": {"dtype": "F16", "shape": [4]}}', data=8), "w is no description of a tensor"),
        (damaged(b'{"w": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}', data=7), "is cut off"),
    ],
)
def test_damaged_weights_are_named(folder: Path, content: bytes, reason: str) -> None:
    (configure(folder) / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadFailed, match=rf"^some-model/model\.safetensors:? {reason}"):
        read_folder(folder)
