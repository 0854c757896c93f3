"""Estimates of Hugging Face folders, made here: a config.json and files with headers and no data worth reading."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from manager.entry import HfParams, ModelEntry
from manager.errors import LoadFailed
from manager.memory import HOST, Estimate
from manager.memory_folder import folder_files, read_folder
from manager.memory_hf import estimate_folder, torch_drives_cuda

MIB = 1 << 20
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "hidden_size": 64, "intermediate_size": 128,
    "max_position_embeddings": 2048, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "vocab_size": 320,
}  # fmt: skip
# Of both layers, for each token: keys and values of two heads of 16.
TOKEN = 2 * 2 * 2 * 16
# Elements: embeddings, a norm, a layer's matrix.
EMBEDDINGS, NORM, MATRIX = 320 * 64, 64, 64 * 64


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """`tensors`: type, shape and bytes by name. The data is a hole in the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "some-model"
    path.mkdir()
    write_safetensors(
        path / "model.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", [320, 64], 2 * EMBEDDINGS),
            "norm": ("F32", [64], 4 * NORM),
            "layers.0.q_proj.weight": ("BF16", [64, 64], 2 * MATRIX),
            "scale": ("F8_E4M3", [64, 64], MATRIX),
        },
    )
    return path


def configure(folder: Path, without: str = "", **values: Any) -> Path:
    config = {key: value for key, value in {**CONFIG, **values}.items() if key != without}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def expected(folder: Path, gpus: tuple[int, ...] = (), **params: Any) -> Estimate:
    return estimate_folder(ModelEntry("m", folder, HfParams(model="m", **params), engine="hf"), gpus)


# weights


def test_weights_take_the_type_that_the_model_computes_in(folder: Path) -> None:
    facts = read_folder(configure(folder))
    assert facts.weights == 2 * EMBEDDINGS + 4 * NORM + 3 * MATRIX
    assert facts.parameters == EMBEDDINGS + NORM + 2 * MATRIX
    assert facts.dtypes == {"BF16": 2 * (EMBEDDINGS + MATRIX), "F32": 4 * NORM, "F8_E4M3": MATRIX}
    for dtype, width in (("auto", 2), ("float32", 4), ("float16", 2), ("bfloat16", 2)):
        assert expected(folder, dtype=dtype).of("weights") == width * (EMBEDDINGS + NORM + MATRIX) + MATRIX


def test_weights_of_several_files_are_those_that_the_index_names(folder: Path) -> None:
    (configure(folder) / "model.safetensors").unlink()
    for name in ("a.safetensors", "b.safetensors", "not-named.safetensors"):
        write_safetensors(folder / name, {"w": ("F16", [10, 10], 200)})
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert expected(folder).of("weights") == 400
    assert [path.name for path in folder_files(folder)] == ["config.json", "a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(("tied", "heads"), [(True, 0), (False, 1)])
def test_a_head_that_is_the_embeddings_counts_once(tied: bool, heads: int, folder: Path) -> None:
    tensors = {name: ("BF16", [320, 64], 2 * EMBEDDINGS) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    write_safetensors(folder / "model.safetensors", tensors)
    estimate = expected(configure(folder, tie_word_embeddings=tied))
    assert estimate.of("weights") == (1 + heads) * 2 * EMBEDDINGS


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"load_in_4bit": True}, 4.5),
        ({"load_in_8bit": True, "load_in_4bit": False}, 8.5),
        ({"quant_method": "gptq", "bits": 3}, 3.5),
        ({"quant_method": "hqq", "nbits": 2}, 2.5),
        ({"quant_method": "quanto", "weights": "float8"}, 8.5),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, 4.5),
        ({"quant_method": "new"}, 16),
    ],
)
def test_quantisation_makes_the_matrices_of_layers_smaller(
    quantization: dict[str, Any], bits: float, folder: Path
) -> None:
    others = 2 * (EMBEDDINGS + NORM) + MATRIX
    assert expected(configure(folder), quantization=quantization).of("weights") == others + MATRIX * bits / 8


def test_pickled_weights_count_where_they_are_allowed(folder: Path) -> None:
    (configure(folder) / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bytes(6000))
    assert expected(folder, allow_pickle=True).of("weights") == 6000
    with pytest.raises(LoadFailed, match="holds neither"):
        expected(folder)


# cache


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ({"ctx_size": 512}, 2 * 512),
        ({"ctx_size": 512, "parallel": 3}, 2 * 512),
        ({}, 2 * 2048),
        ({"ctx_size": 0}, 2 * 2048),
        ({"ctx_size": 100_000}, 2 * 2048),
        ({"ctx_size": 512, "cache_tokens": 8000}, 8000),
        ({"ctx_size": 500, "cache_tokens": 100}, 512),  # a window has to have room
    ],
)
def test_cache_is_what_all_sequences_may_hold_together(folder: Path, params: dict[str, Any], tokens: int) -> None:
    assert expected(configure(folder), **params).of("cache") == tokens * TOKEN * 2


@pytest.mark.parametrize(
    ("values", "params", "size"),
    [
        ({"dtype": "float32"}, {}, 4),
        ({"dtype": None, "torch_dtype": "float16"}, {}, 2),
        ({"dtype": None}, {}, 2),  # as most weights are stored
        ({"dtype": "auto"}, {}, 2),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}, 4),
    ],
)
def test_cache_is_of_the_type_that_it_computes_in(
    folder: Path, values: dict[str, Any], params: dict[str, Any], size: int
) -> None:
    assert expected(configure(folder, **values), ctx_size=256, **params).of("cache") == 512 * TOKEN * size


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({"num_key_value_heads": None}, 2 * 4 * 16),
        ({"head_dim": 32}, 2 * 2 * 32),
        ({"kv_lora_rank": 8, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}, 4 * (16 + 8 + 12)),
    ],
)
def test_cache_follows_heads_and_their_sizes(folder: Path, values: dict[str, Any], row: int) -> None:
    assert expected(configure(folder, **values), ctx_size=256).of("cache") == 512 * 2 * row * 2


def test_models_of_embeddings_keep_no_cache_and_make_no_logits(folder: Path) -> None:
    plain = expected(configure(folder))
    for embedding in (expected(folder, embedding=True), expected(configure(folder, architectures=["BertModel"]))):
        assert embedding.of("cache") == 0
        assert embedding.of("weights") == plain.of("weights")
        assert (embedding.later, [part.name for part in plain.later]) == ((), ["grammars"])
    (configure(folder) / "modules.json").write_text("[]")
    assert expected(folder).of("cache") == 0


# the rest


def test_buffers_follow_what_is_computed_at_once(folder: Path) -> None:
    configure(folder)
    small, large = (expected(folder, batch_size=size).of("compute") for size in (128, 1024))
    assert large > small
    assert expected(folder, batch_size=1024, ctx_size=128).of("compute") == small
    assert expected(folder, parallel=32).of("compute") - expected(folder, parallel=16).of("compute") == 16 * 320 * (
        2 + 2 * 4
    )
    # A prompt with images is read at once.
    assert expected(configure(folder, vision_config={})).of("compute") > large


def test_a_large_tensor_needs_room_while_it_is_loaded(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", {"w": ("BF16", [MIB, 100], 200 * MIB)})
    estimate = expected(configure(folder))
    assert estimate.of("load") + estimate.of("cache") + estimate.of("compute") == 200 * MIB
    assert expected(folder, cache_tokens=MIB).of("load") == 0


def test_libraries_count_until_they_are_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(folder)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    without = expected(folder, (MIB,))
    assert without.of("libraries") > 200 * MIB
    assert {part.device for part in without.parts if part.name == "libraries"} == {HOST, "gpu0"}
    for has_context, devices in ((False, {"gpu0"}), (True, set[str]())):
        monkeypatch.setitem(sys.modules, "torch", fake_torch(has_context))
        parts = expected(folder, (MIB,)).parts
        assert {part.device for part in parts if part.name == "libraries"} == devices


def fake_torch(has_context: bool) -> Any:
    class Cuda:
        is_initialized: Callable[[], bool] = staticmethod(lambda: has_context)

    class Torch:
        cuda = Cuda

    return Torch


def test_the_parts_are_the_total(folder: Path) -> None:
    estimate = expected(configure(folder))
    assert estimate.total == sum(part.size for part in estimate.parts)
    assert len({(part.name, part.device) for part in estimate.parts}) == len(estimate.parts)
    assert list(estimate.devices) == [HOST]


# devices


@pytest.fixture
def large(folder: Path) -> Path:
    """100 MiB of weights."""
    write_safetensors(folder / "model.safetensors", {"w": ("BF16", [MIB, 50], 100 * MIB)})
    return configure(folder)


@pytest.mark.parametrize(
    ("device_map", "gpus", "shares"),
    [
        ("auto", (), {HOST: 100}),
        ("cpu", (1000,), {HOST: 100}),
        ("auto", (1000,), {"gpu0": 100}),
        ("cuda", (1000, 1000), {"gpu0": 100}),
        ("cuda:1", (1000, 1000), {"gpu1": 100}),
        ("auto", (1000, 1000), {"gpu0": 50, "gpu1": 50}),
        ("sequential", (1000, 1000), {"gpu0": 100}),
        ("auto", (50,), {HOST: 55, "gpu0": 45}),  # a tenth is left free
        ("auto", (20, 1000), {"gpu0": 18, "gpu1": 82}),
        ("auto", (20, 20), {HOST: 64, "gpu0": 18, "gpu1": 18}),
        ({"": 1}, (1000, 1000), {"gpu1": 100}),
        ({"model": "cuda:0", "lm_head": "cpu"}, (1000,), {"gpu0": 50, HOST: 50}),
    ],
)
def test_layers_go_where_transformers_puts_them(
    device_map: Any, gpus: tuple[int, ...], shares: dict[str, int], large: Path
) -> None:
    estimate = expected(large, tuple(room * MIB for room in gpus), device_map=device_map)
    weights = {part.device: part.size for part in estimate.parts if part.name == "weights"}
    assert weights == {device: pytest.approx(share * MIB, rel=1e-5) for device, share in shares.items()}
    cache = {part.device: part.size / estimate.of("cache") for part in estimate.parts if part.name == "cache"}
    assert cache == {device: pytest.approx(share / 100, rel=1e-3) for device, share in shares.items()}
    assert {part.device for part in estimate.parts if part.name == "compute"} == {HOST, *shares}


@pytest.mark.parametrize(
    ("text", "drives"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("cuda: Optional[str] = '12.8'\n", True),
        ('cuda = "13.0"\n', True),
        ("__version__ = '2.13.0'\n", False),
    ],
)
def test_a_torch_for_gpus_is_told_without_importing_it(text: str, drives: bool, tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(text)
    spec = ModuleSpec("torch", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    assert torch_drives_cuda(lambda name: spec) == drives
    assert not torch_drives_cuda(lambda name: None)


# the folder


def test_the_language_model_of_a_model_that_sees_is_read(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["Seeing"], "text_config": CONFIG}))
    facts = read_folder(folder)
    assert (facts.architecture, facts.layers, facts.vocabulary) == ("Seeing", 2, 320)


def test_other_names_of_the_same_are_known(folder: Path) -> None:
    names = {
        "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings", "n_inner": "intermediate_size",
    }  # fmt: skip
    facts = read_folder(configure(folder))
    config = {key: value for key, value in CONFIG.items() if key not in names.values()}
    config |= {name: CONFIG[key] for name, key in names.items()}
    (folder / "config.json").write_text(json.dumps(config))
    renamed = read_folder(folder)
    assert renamed == facts


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
