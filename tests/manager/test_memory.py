"""Estimates of memory from headers alone. That they agree with llama.cpp is shown in tests/e2e/test_memory.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from manager.entry import LlamaParams, Lora, ModelEntry
from manager.errors import LoadFailed
from manager.memory import HOST, UNLIMITED, Estimate, estimate
from manager.memory_model import ModelFacts, part_paths, read_model, read_projector
from tests.gguf_files import EMBEDDING, write_adapter, write_tiny_gguf

# Shapes of tensors by the end of their names.
Shapes = dict[str, tuple[int, ...]]

MIB = 1 << 20
VOCABULARY = 512
WIDTH = 256
HEAD = 64


def write(
    path: Path,
    architecture: str = "llama",
    *,
    layers: int = 4,
    kind: str = "F16",
    tied: bool = False,
    without: tuple[str, ...] = (),
    more: dict[int, Shapes] | None = None,
    **keys: Any,
) -> Path:
    """A model of zeros, whose metadata has `keys` (`__` for a dot); layer n has the tensors `more[n]` besides."""
    writer = gguf.GGUFWriter(path, architecture)
    given = {
        "block_count": layers, "context_length": 8192, "embedding_length": WIDTH, "feed_forward_length": 2 * WIDTH,
        "attention__head_count": 4, "attention__head_count_kv": 2, **keys,
    }  # fmt: skip
    for key, value in given.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    data_type = getattr(gguf.GGMLQuantizationType, kind)
    block, size = gguf.GGML_QUANT_SIZES[data_type]

    def add(name: str, *shape: int) -> None:
        data = np.zeros((*shape[:-1], shape[-1] // block * size), np.uint8)
        writer.add_tensor(name, data, raw_dtype=data_type)

    add("token_embd.weight", VOCABULARY, WIDTH)
    if not tied:
        add("output.weight", VOCABULARY, WIDTH)
    for layer in range(layers):
        shapes: Shapes = {
            "attn_k.weight": (2 * HEAD, WIDTH),
            "ffn_up.weight": (2 * WIDTH, WIDTH),
            **(more or {}).get(layer, {}),
        }
        for name, shape in shapes.items():
            if name not in without:
                add(f"blk.{layer}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def entry(path: Path, **params: Any) -> ModelEntry:
    return ModelEntry(name="m", path=path, params=LlamaParams(model=str(path), **params))


def expected(path: Path, gpus: tuple[float, ...] = (), **params: Any) -> Estimate:
    return estimate(entry(path, **params), "native", gpus)


def cache(path: Path, **params: Any) -> int:
    return expected(path, **params).of("cache")


def states(facts: ModelFacts) -> list[int]:
    return [layer.state for layer in facts.layers]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.gguf")


# Elements of keys and values of one token, all layers of `model`.
TOKEN = 4 * 2 * 2 * HEAD


# weights


def test_weights_are_all_tensors_of_the_file(model: Path) -> None:
    layers = 4 * (2 * HEAD + 2 * WIDTH) * WIDTH
    assert expected(model).of("weights") == 2 * (2 * VOCABULARY * WIDTH + layers)
    assert read_model(model).parameters == 2 * VOCABULARY * WIDTH + layers


def test_weights_of_a_split_model_are_those_of_all_parts(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf")
    first = write(tmp_path / "s-00001-of-00002.gguf")
    write(tmp_path / "s-00002-of-00002.gguf")
    assert [path.name for path in part_paths(first)] == ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]
    assert expected(first).of("weights") == 2 * expected(whole).of("weights")


def test_weights_of_an_unknown_type_count_all_the_same(model: Path) -> None:
    data = bytearray(model.read_bytes())
    facts = read_model(model)
    name = b"blk.0.ffn_up.weight"
    # After the name: the number of dimensions, two of them, and the type.
    kind = data.index(name) + len(name) + 4 + 16
    data[kind : kind + 4] = (999).to_bytes(4, "little")
    model.write_bytes(data)
    assert read_model(model).weights == facts.weights
    assert read_model(model).layers[0].weights < facts.layers[0].weights


def test_adapters_and_projectors_count(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf")
    projector = write(tmp_path / "mmproj.gguf", "clip", vision__image_size=64, vision__patch_size=8)
    weights, buffers = read_projector(projector)
    plain = expected(model)
    whole = estimate(
        ModelEntry(
            name="m",
            path=model,
            params=LlamaParams(model="m", lora=(Lora(path=str(adapter)),)),
            mmproj=projector,
        ),
        "native",
    )
    assert whole.of("lora") >= 2 * 2 * 2 * EMBEDDING
    assert whole.of("mmproj") == weights > 0
    assert whole.of("compute") - plain.of("compute") == buffers > 0


def test_copies_for_the_cpu_count_beside_a_mapped_file_and_can_be_taken_back(tmp_path: Path) -> None:
    path = write(tmp_path / "q.gguf", kind="Q4_0")
    mapped, read = expected(path), expected(path, mmap=False)
    embeddings = VOCABULARY * WIDTH // 32 * 18
    assert mapped.of("copies") == mapped.reclaimable == mapped.of("weights") - embeddings
    assert read.of("copies") == read.reclaimable == 0
    assert mapped.needed(HOST) == read.needed(HOST)


def test_embeddings_that_are_also_the_output_are_needed_beside_their_copy(tmp_path: Path) -> None:
    path = write(tmp_path / "q.gguf", kind="Q4_0", tied=True)
    embeddings = VOCABULARY * WIDTH // 32 * 18
    mapped, read = expected(path), expected(path, mmap=False)
    assert mapped.of("copies") == mapped.of("weights")
    assert mapped.reclaimable == mapped.of("copies") - embeddings
    assert read.of("copies") == embeddings


def test_weights_in_16_bits_are_not_copied(model: Path) -> None:
    assert expected(model).of("copies") == 0


# the cache


@pytest.mark.parametrize(
    ("params", "cells"),
    [
        ({"ctx_size": 512, "parallel": 1}, 512),
        ({"ctx_size": 512, "parallel": 4}, 4 * 512),
        ({"ctx_size": 512, "parallel": 4, "kv_unified": True}, 512),
        ({"ctx_size": 300, "parallel": 1}, 512),
        ({"ctx_size": 300, "parallel": 2}, 2 * 512),
        ({"parallel": 1}, 4096),
        ({"ctx_size": 0, "parallel": 2}, 2 * 8192),
    ],
)
def test_cache_is_of_all_slots_and_in_steps_of_256(model: Path, params: dict[str, Any], cells: int) -> None:
    assert cache(model, **params) == cells * TOKEN * 2


@pytest.mark.parametrize(
    ("keys", "values", "size"), [("f32", "f16", 3.0), ("q8_0", "q8_0", 34 / 32), ("q4_0", "q8_0", (18 + 34) / 64)]
)
def test_cache_is_of_its_types(model: Path, keys: Any, values: Any, size: float) -> None:
    params = {"cache_type_k": keys, "cache_type_v": values, "flash_attn": "on"}
    assert cache(model, ctx_size=512, parallel=1, **params) == 512 * TOKEN * size


def test_cache_follows_the_heads_of_each_layer(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", attention__head_count_kv=[1, 2, 4, 1])
    assert cache(path, ctx_size=256, parallel=1) == 256 * 8 * 2 * HEAD * 2


def test_cache_follows_sizes_of_heads_that_the_file_states(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", attention__key_length=128, attention__value_length=32)
    assert cache(path, ctx_size=256, parallel=1) == 256 * 4 * 2 * (128 + 32) * 2


def test_values_have_one_width_without_flash_attention(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", attention__head_count_kv=[1, 2, 4, 1])
    assert cache(path, ctx_size=256, parallel=1, flash_attn="off") == 256 * (8 + 16) * HEAD * 2


def test_compressed_attention_keeps_keys_only(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "attention__key_length": 576,
        "attention__key_length_mla": 192,
        "attention__value_length_mla": 128,
    }
    path = write(tmp_path / "m.gguf", "deepseek2", attention__head_count_kv=1, **keys)
    assert cache(path, ctx_size=256, parallel=1) == 256 * 4 * 576 * 2


def test_layers_with_a_sliding_window_keep_the_window_and_a_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "gemma3", layers=6, attention__sliding_window=512)
    row = 2 * 2 * HEAD * 2
    assert cache(path, ctx_size=8192, parallel=1) == row * (8192 + 5 * 1024)
    assert cache(path, ctx_size=512, parallel=1) == row * 6 * 512
    assert cache(path, ctx_size=8192, parallel=2, kv_unified=True) == row * (8192 + 5 * 1536)


def test_the_file_may_say_which_layers_have_a_window(tmp_path: Path) -> None:
    pattern: dict[str, Any] = {
        "attention__sliding_window": 256,
        "attention__sliding_window_pattern": [True, False, True, True],
    }
    facts = read_model(write(tmp_path / "m.gguf", "mimo2", **pattern))
    assert [layer.windowed for layer in facts.layers] == [True, False, True, True]


def test_a_window_of_an_unknown_pattern_is_not_relied_on(tmp_path: Path) -> None:
    facts = read_model(write(tmp_path / "m.gguf", "newcomer", attention__sliding_window=256))
    assert not any(layer.windowed for layer in facts.layers)


def test_layers_that_share_a_cache_have_none(tmp_path: Path) -> None:
    facts = read_model(write(tmp_path / "m.gguf", "gemma4", attention__shared_kv_layers=3))
    assert [layer.keys > 0 for layer in facts.layers] == [True, False, False, False]


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    assert cache(write(tmp_path / "m.gguf", "bert")) == 0


def test_recurrent_layers_have_a_state_for_each_slot(tmp_path: Path) -> None:
    ssm: dict[str, Any] = {"ssm__conv_kernel": 4, "ssm__inner_size": 512, "ssm__state_size": 16, "ssm__group_count": 1}
    recurrent: Shapes = {"ssm_in.weight": (512, WIDTH), "attn_qkv.weight": (512, WIDTH)}
    path = write(tmp_path / "m.gguf", "qwen3next", layers=2, more={1: recurrent}, **ssm)
    state = 3 * (512 + 2 * 16) + 16 * 512
    assert states(read_model(path)) == [0, state]
    assert expected(path, parallel=3).of("state") == 4 * 3 * state
    bare = write(
        tmp_path / "n.gguf", "mamba", layers=2, without=("attn_k.weight",), more={0: recurrent, 1: recurrent}, **ssm
    )
    assert states(read_model(bare)) == [state, state]
    assert cache(bare) == 0


def test_rwkv_has_a_state_of_its_own_kind(tmp_path: Path) -> None:
    more: dict[int, Shapes] = {0: {"time_mix_key.weight": (WIDTH, WIDTH)}}
    path = write(tmp_path / "m.gguf", "rwkv7", layers=1, without=("attn_k.weight",), more=more, wkv__head_size=64)
    assert states(read_model(path)) == [WIDTH * (2 + 64)]


# buffers, and the process


def test_scores_take_room_only_without_flash_attention(model: Path) -> None:
    sizes = [
        [expected(model, ctx_size=ctx, parallel=1, flash_attn=flash).of("compute") for ctx in (2048, 4096)]
        for flash in ("on", "off")
    ]
    (short, long), (short_off, long_off) = sizes
    assert long - short == 512 * 2048 * 2  # a mask in 16 bits
    # Scores of four heads and a mask in 32 bits; the scores once more in 16.
    assert long_off - short_off == 512 * 2048 * (4 * (4 + 1) + 2 * 4)


def test_buffers_follow_the_physical_batch(model: Path) -> None:
    half, whole = (expected(model, ubatch_size=size).of("compute") for size in (256, 512))
    assert 2 * half == whole
    assert expected(model, batch_size=256).of("compute") == half


def test_buffers_follow_the_experts_that_a_token_uses(tmp_path: Path) -> None:
    dense = write(tmp_path / "a.gguf", feed_forward_length=1024)
    experts = write(tmp_path / "b.gguf", expert_used_count=4, expert_feed_forward_length=256)
    assert read_model(dense).feed_forward == read_model(experts).feed_forward == 1024


def test_embeddings_of_every_token_take_an_output_each(model: Path) -> None:
    chat, embedding = expected(model, parallel=1), expected(model, parallel=1, embedding=True)
    assert embedding.of("output") > 100 * chat.of("output")


def test_the_embedded_launcher_takes_more_than_the_native_one(model: Path) -> None:
    native, embedded = (estimate(entry(model), launcher) for launcher in ("native", "embedded"))
    assert native.of("process") < embedded.of("process")
    assert embedded.total - native.total == embedded.of("process") - native.of("process")


# what comes later


@pytest.mark.parametrize(("mib", "size"), [(None, 1024 * MIB), (64, 64 * MIB), (-1, UNLIMITED)])
def test_prompt_cache_is_told_apart_from_what_a_load_takes(model: Path, mib: int | None, size: int) -> None:
    found = expected(model, cache_ram_mib=mib)
    assert [(part.name, part.size) for part in found.later] == [("prompt cache", size)]
    assert found.total == expected(model, cache_ram_mib=0).total


def test_checkpoints_of_windows_and_states_come_later(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "gemma3", layers=6, attention__sliding_window=512)
    later = {part.name: part.size for part in expected(path, ctx_size=8192, parallel=1).later}
    assert later["checkpoints"] == 32 * 5 * 1024 * 2 * 2 * HEAD * 2


# devices


def test_without_a_gpu_everything_is_on_the_host(model: Path) -> None:
    found = expected(model, gpu_layers=-1)
    assert found.devices == {HOST: found.total}
    assert found.needed("gpu0") == 0


def test_last_layers_go_to_the_gpu_and_the_output_first(model: Path) -> None:
    one = expected(model, (8.0,), gpu_layers=1)
    assert [part.size for part in one.parts if part.device == "gpu0" and part.name == "weights"] == [
        2 * VOCABULARY * WIDTH
    ]
    three = expected(model, (8.0,), gpu_layers=3, ctx_size=256, parallel=1)
    on_gpu = {part.name: part.size for part in three.parts if part.device == "gpu0"}
    assert on_gpu["weights"] == 2 * (VOCABULARY + 2 * (2 * HEAD + 2 * WIDTH)) * WIDTH
    assert on_gpu["cache"] == 256 * TOKEN * 2 // 2
    assert three.of("weights") == expected(model).of("weights")


@pytest.mark.parametrize("layers", [None, -1, 5, 99])
def test_all_layers_go_to_the_gpu_but_the_input(model: Path, layers: int | None) -> None:
    found = expected(model, (8.0,), gpu_layers=layers)
    assert [part.size for part in found.parts if part.device == HOST and part.name == "weights"] == [
        2 * VOCABULARY * WIDTH
    ]
    assert {part.device for part in found.parts if part.name == "cache"} == {"gpu0"}


def test_no_gpu_layers_leave_the_gpu_alone(model: Path) -> None:
    assert list(expected(model, (8.0,), gpu_layers=0).devices) == [HOST]


def test_tied_embeddings_are_on_both_devices(tmp_path: Path) -> None:
    found = expected(write(tmp_path / "m.gguf", tied=True), (8.0,))
    assert found.of("weights") == expected(tmp_path / "m.gguf").of("weights") + 2 * VOCABULARY * WIDTH


@pytest.mark.parametrize(
    ("params", "gpus", "caches"),
    [
        ({"tensor_split": (1.0, 1.0)}, (8.0, 8.0), [3, 1]),  # five pieces, the last of them the output
        ({"tensor_split": (4.0, 1.0)}, (1.0, 9.0), [4]),
        ({}, (1.0, 4.0), [1, 3]),
        ({"split_mode": "none", "main_gpu": 1}, (8.0, 8.0), [4]),
    ],
)
def test_layers_are_shared_out_by_split_or_by_free_memory(
    model: Path, params: dict[str, Any], gpus: tuple[float, ...], caches: list[int]
) -> None:
    found = expected(model, gpus, gpu_layers=-1, ctx_size=256, parallel=1, **params)
    layer = 256 * TOKEN * 2 // 4
    assert [part.size // layer for part in found.parts if part.name == "cache"] == caches


@pytest.mark.parametrize(
    ("device", "caches"),
    [
        ("CUDA1", {"gpu1": 4}),
        ("CUDA1,CUDA0", {"gpu1": 3, "gpu0": 1}),
        ("none", {HOST: 4}),
        ("Vulkan0", {"gpu0": 3, "gpu1": 1}),
        ("CUDA7", {"gpu0": 3, "gpu1": 1}),
    ],
)
def test_devices_that_the_entry_names_are_used_in_their_order(model: Path, device: str, caches: dict[str, int]) -> None:
    found = expected(model, (8.0, 8.0), tensor_split=(1.0, 1.0), ctx_size=256, parallel=1, device=device)
    layer = 256 * TOKEN * 2 // 4
    assert {part.device: part.size // layer for part in found.parts if part.name == "cache"} == caches


def on_gpu(found: Estimate) -> int:
    return found.needed("gpu0")


@pytest.mark.parametrize("layers", range(1, 6))
def test_open_gpu_layers_are_as_many_as_there_is_room_for(model: Path, layers: int) -> None:
    params: dict[str, Any] = {"ctx_size": 2048, "parallel": 1}
    exact = expected(model, (8.0,), gpu_layers=layers, **params)
    margin = 1024 * MIB
    room = on_gpu(exact) + margin
    assert estimate(entry(model, **params), "native", (8.0,), room=(room,)) == exact
    less = estimate(entry(model, **params), "native", (8.0,), room=(room - 1,))
    assert less == expected(model, (8.0,), gpu_layers=layers - 1, **params)


def test_a_gpu_that_is_not_used_needs_no_room(model: Path) -> None:
    params: dict[str, Any] = {"split_mode": "none", "main_gpu": 1}
    found = estimate(entry(model, **params), "native", (8.0, 8.0), room=(0, 1 << 40))
    assert found == expected(model, (8.0, 8.0), gpu_layers=-1, **params)


def test_gpu_layers_that_are_said_need_no_room(model: Path) -> None:
    assert estimate(entry(model, gpu_layers=-1), "native", (8.0,), room=(0,)) == expected(model, (8.0,))


# drafting


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return write(tmp_path / "draft.gguf", layers=2, context_length=1024)


def test_a_model_that_drafts_takes_what_it_would_alone_but_for_the_process(model: Path, draft: Path) -> None:
    params: dict[str, Any] = {"ctx_size": 512, "parallel": 2, "draft_max": 0}
    alone = expected(draft, ctx_size=512, parallel=2)
    both, one = expected(model, draft_model=str(draft), **params), expected(model, ctx_size=512, parallel=2)
    assert both.total - one.total == both.of("draft")
    # A vocabulary and room for graphs are in its process part too.
    assert 0 < both.of("draft") - (alone.total - alone.of("process")) < alone.of("process") - 20 * MIB


def test_a_draft_has_the_window_of_its_model_and_a_cache_of_16_bits(model: Path, draft: Path) -> None:
    def of_draft(**params: Any) -> int:
        return expected(model, draft_model=str(draft), parallel=1, ctx_size=512, **params).of("draft")

    eight = of_draft(cache_type_k="q8_0", cache_type_v="q8_0", flash_attn="on")
    assert eight == of_draft(flash_attn="on")
    trained = expected(model, draft_model=str(draft), parallel=1, ctx_size=0).of("draft")
    cells = 8192 - 512
    # Its two layers are half of what TOKEN counts; the mask of the buffers grows too.
    assert trained - of_draft() == cells * TOKEN // 2 * 2 + 512 * 2 * cells


def test_logits_of_all_drafted_tokens_take_an_output_each(model: Path, draft: Path) -> None:
    def output(**params: Any) -> int:
        return expected(model, draft_model=str(draft), parallel=2, **params).of("output")

    row = VOCABULARY * 4
    assert output(draft_max=7) - output(draft_max=0) == 2 * 7 * row
    assert output() == output(draft_max=3)
    assert output(draft_max=0) == expected(model, parallel=2).of("output")


def test_layers_of_the_draft_are_placed_by_its_own_number(model: Path, draft: Path) -> None:
    def placed(**params: Any) -> dict[str, int]:
        found = expected(model, (8.0,), draft_model=str(draft), parallel=1, ctx_size=256, gpu_layers=0, **params)
        return {part.device: part.size for part in found.parts if part.name == "draft"}

    # The model itself is told to leave the GPU alone.
    assert list(placed(draft_gpu_layers=0)) == [HOST]
    some, whole = placed(draft_gpu_layers=1), placed()
    assert 0 < some["gpu0"] < whole["gpu0"]
    assert placed(draft_gpu_layers=-1) == placed(draft_gpu_layers=99) == whole


def test_copies_of_a_four_bit_draft_can_be_taken_back_too(model: Path, tmp_path: Path) -> None:
    four = write(tmp_path / "q.gguf", kind="Q4_0")
    assert expected(model, draft_model=str(four)).reclaimable == expected(four).reclaimable > 0


# what is no model


def test_more_layers_than_any_model_has_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(1 << 31)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(LoadFailed, match=r"m\.gguf claims 2,147,483,648 layers"):
        read_model(tmp_path / "m.gguf")


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", layers=2)
    assert len(read_model(path).layers) == 2
    assert read_model(path) is read_model(path)
    assert len(read_model(write(path, layers=3)).layers) == 3


def test_a_file_without_an_architecture_is_refused(tiny_gguf: Path) -> None:
    with pytest.raises(LoadFailed, match="does not say its architecture"):
        read_model(tiny_gguf)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        expected(tmp_path / "none.gguf")


def test_the_small_model_of_other_tests_is_read(tmp_path: Path) -> None:
    facts = read_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert (facts.architecture, len(facts.layers), facts.heads, facts.kv_heads) == ("llama", 2, 4, 2)
    assert facts.chat_template
