"""A step of several sequences gives each what it would get alone, and what the model's own attention gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen3Config,
)

from manager.engines.hf.batch import attention
from manager.engines.hf.batch.cache import KeyValues
from manager.engines.hf.batch.forward import Apart, Forward, Piece, Together, choose_forward
from manager.engines.hf.batch.packing import PackedLinear, pack
from manager.engines.hf.runtime import bring_in

VOCABULARY = 96
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SMALL),
    "qwen3": lambda: Qwen3Config(**SMALL),
    "mistral with a window": lambda: MistralConfig(**SMALL, sliding_window=8),
    "gemma2 with capped scores": lambda: Gemma2Config(**SMALL, sliding_window=8, query_pre_attn_scalar=16),
    "gemma3 with both kinds of layers": lambda: Gemma3TextConfig(
        **SMALL, sliding_window=8, query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt-oss with sinks": lambda: GptOssConfig(
        **SMALL, num_local_experts=2, num_experts_per_tok=1, sliding_window=8, rope_parameters={"rope_type": "default"}
    ),
}


def loaded(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    bring_in()
    torch.manual_seed(1)
    made: Any = AutoModelForCausalLM  # its methods have no types
    model = made.from_config(config, attn_implementation=attention.NAME).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return SimpleNamespace(model=model.to(dtype), device=torch.device("cpu"), kind="text", vocabulary=config.vocab_size)


def fed(forward: Forward, tokens: list[int], parts: list[int], beside: list[int] | None = None) -> torch.Tensor:
    """The last logits of `tokens`, read in parts of those lengths, with another sequence beside them."""
    cache, other = forward.new_cache(), forward.new_cache()
    for one in (cache, other):
        one.make_room(128)
    logits, start = torch.empty(0), 0
    for part in parts:
        pieces = [Piece(cache, tokens[start : start + part], wanted=True)]
        if beside is not None:
            pieces.insert(0, Piece(other, beside[start : start + part], wanted=False))
        logits = forward.step(pieces)[-1]
        start += part
    assert start == len(tokens)
    return logits.float()


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_sequences_of_every_family_share_a_forward(name: str) -> None:
    one = loaded(CONFIGS[name]())
    forward = choose_forward(one, name)
    assert isinstance(forward, Together)
    tokens = [(7 * number) % 90 + 1 for number in range(40)]
    one.model.set_attn_implementation("eager")
    expected = one.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    one.model.set_attn_implementation(attention.NAME)
    for parts in ([40], [13, 27], [20, 19, 1], [1] * 40):
        for beside in (None, tokens[::-1]):
            torch.testing.assert_close(fed(forward, tokens, parts, beside), expected, atol=2e-3, rtol=0)


@torch.inference_mode()
def test_a_model_with_a_state_of_its_own_is_asked_for_each_sequence() -> None:
    one = loaded(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0))
    forward = choose_forward(one, "mamba")
    assert isinstance(forward, Apart)
    tokens = [5, 9, 33, 71, 2, 8]
    expected = one.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    got = fed(forward, tokens, [4, 1, 1], tokens[::-1])
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_a_model_that_reads_our_attention_otherwise_is_asked_for_each_sequence() -> None:
    """As one whose class looks ahead, or at images both ways."""
    one = loaded(LlamaConfig(**SMALL))
    inner = one.model.model.layers[1].self_attn.forward

    def looks_elsewhere(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("packed") is not None:
            kwargs["hidden_states"] = kwargs["hidden_states"].flip(1)
        return inner(*args, **kwargs)

    one.model.model.layers[1].self_attn.forward = looks_elsewhere
    assert isinstance(choose_forward(one, "odd"), Apart)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 in oneDNN")
@torch.inference_mode()
def test_a_sequence_gets_the_same_logits_alone_and_in_a_batch() -> None:
    one = loaded(LlamaConfig(**SMALL), torch.bfloat16)
    assert pack(one.model)
    forward = Together(one)
    prompts = [[(number * step) % 90 + 1 for number in range(9 + step)] for step in range(1, 9)]
    alone = [fed(forward, prompt, [len(prompt) - 1, 1]) for prompt in prompts]
    caches = [forward.new_cache() for _ in prompts]
    for cache in caches:
        cache.make_room(64)
    pairs = list(zip(caches, prompts, strict=True))
    forward.step([Piece(cache, prompt[:-1], wanted=False) for cache, prompt in pairs])
    together = forward.step([Piece(cache, prompt[-1:], wanted=True) for cache, prompt in pairs])
    assert torch.equal(together.float(), torch.stack(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_packed_layers_answer_as_plain_ones(dtype: torch.dtype) -> None:
    one = loaded(LlamaConfig(**SMALL), dtype)
    tokens = torch.tensor([[4, 8, 15, 16, 23, 42]])
    before = one.model(input_ids=tokens, use_cache=False, packed=None).logits
    count = pack(one.model)
    assert count == sum(isinstance(module, PackedLinear) for module in one.model.modules()) == 14
    assert one.model.lm_head.weight is one.model.model.embed_tokens.weight  # tied: it is needed as it is
    torch.testing.assert_close(one.model(input_ids=tokens, use_cache=False).logits, before, atol=2e-2, rtol=0)


def test_a_prompt_with_an_image_is_tried_too(tiny_vision_folder: Path) -> None:
    """Vision towers keep their own attention."""
    bring_in()
    from transformers import AutoModelForImageTextToText

    made: Any = AutoModelForImageTextToText
    model = made.from_pretrained(
        tiny_vision_folder, dtype=torch.float32, attn_implementation={"text_config": attention.NAME}
    ).eval()
    one: Any = SimpleNamespace(model=model, device=torch.device("cpu"), kind="vision", vocabulary=VOCABULARY)
    image = model.config.image_token_id
    count = (64 // 16) ** 2 // 4
    sample = Piece(
        cache=KeyValues(0),  # a sample is tried with caches of the trial's own
        tokens=[5, *[image] * count, 9, 11],
        wanted=True,
        media={"pixel_values": torch.randn(1, 1, 3, 64, 64)},
    )
    assert isinstance(choose_forward(one, "vision", sample), Together)
