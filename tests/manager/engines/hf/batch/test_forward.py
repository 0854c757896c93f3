"""A step of several sequences gives each what it would get alone, and what the model's own attention gives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTJConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)

from manager.engines.hf.batch import attention
from manager.engines.hf.batch.attention import Interrupted
from manager.engines.hf.batch.cache import KeyValues
from manager.engines.hf.batch.forward import Apart, Forward, Piece, Together
from manager.engines.hf.batch.packing import PackedLinear, pack
from manager.engines.hf.batch.trial import choose_forward
from manager.engines.hf.runtime import bring_in
from manager.errors import LoadFailed

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
    model = made.from_config(config).eval().requires_grad_(False)
    if attention.can_use_ours(model):
        attention.set_attention(model, attention.NAME)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return SimpleNamespace(
        model=model.to(dtype), device=torch.device("cpu"), kind="text", vocabulary=config.vocab_size, window=512
    )


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


LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [8.0] * 8,
    "original_max_position_embeddings": 64,
}
EARLY: dict[str, Any] = {
    "rope_type": "dynamic",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (lambda: Phi3Config(**SMALL, original_max_position_embeddings=64, rope_parameters=LONG), 64),
        (lambda: LlamaConfig(**SMALL, rope_parameters=EARLY), 64),
        (lambda: Llama4TextConfig(**SMALL, intermediate_size_mlp=64, attention_chunk_size=64, num_local_experts=2), 64),
    ],
    ids=["longrope", "dynamic", "chunks"],
)
@torch.inference_mode()
def test_what_a_short_trial_does_not_show_is_known(config: Callable[[], Any], limit: int) -> None:
    """Angles by the longest position of all sequences, and masks that start anew with each chunk."""
    one = loaded(config())
    one.window = limit
    assert isinstance(choose_forward(one, "short"), Together)
    one.window = limit + 1
    assert isinstance(choose_forward(one, "long"), Apart)
    assert attention.text_attention(one.model) == "sdpa"


@torch.inference_mode()
def test_angles_that_are_given_by_kind_of_layer_count_too() -> None:
    one = loaded(LlamaConfig(**SMALL))
    one.model.config.rope_parameters = {"sliding_attention": {"rope_type": "default"}, "full_attention": LONG}
    assert isinstance(choose_forward(one, "nested"), Apart)


MAMBA: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
GPTJ: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}
BLOOM: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (lambda: MambaConfig(**MAMBA), {"x_proj", "dt_proj", "out_proj"}),
        (lambda: GPTJConfig(**GPTJ, n_positions=512, bos_token_id=1, eos_token_id=2), set()),
    ],
    ids=["mamba", "gptj"],
)
@torch.inference_mode()
def test_a_layer_whose_weight_its_parent_reads_is_not_packed(config: Callable[[], Any], plain: set[str]) -> None:
    one = loaded(config())
    tokens = torch.tensor([[4, 8, 15, 16, 23, 42]])
    before = one.model(input_ids=tokens, use_cache=False).logits
    assert pack(one.model)
    left = {name.rpartition(".")[2] for name, part in one.model.named_modules() if type(part) is torch.nn.Linear}
    assert left - {"lm_head"} == plain
    torch.testing.assert_close(one.model(input_ids=tokens, use_cache=False).logits, before, atol=1e-3, rtol=1e-3)
    assert isinstance(choose_forward(one, "packed"), Apart)


def test_of_a_class_without_source_nothing_is_packed() -> None:
    scope: dict[str, Any] = {"torch": torch}
    exec("class Hidden(torch.nn.Module):\n    def forward(self, x): return self.a(x)", scope)  # noqa: S102
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), scope["Hidden"]())
    model[1].a = torch.nn.Linear(32, 32)
    assert pack(model) == 1
    assert isinstance(model[0], PackedLinear)


@pytest.mark.parametrize(
    "config",
    [lambda: BloomConfig(**BLOOM), lambda: GPTJConfig(**GPTJ, n_positions=512, bos_token_id=1, eos_token_id=2)],
    ids=["bloom", "gptj"],
)
@torch.inference_mode()
def test_a_model_that_knows_no_other_attention_keeps_its_own(config: Callable[[], Any]) -> None:
    one = loaded(config())
    forward = choose_forward(one, "old")
    assert isinstance(forward, Apart)
    assert attention.text_attention(one.model) != attention.NAME
    text = [5, 9, 33, 71, 2, 8]
    expected = one.model.generate(
        torch.tensor([text]), do_sample=False, max_new_tokens=8, eos_token_id=None, pad_token_id=0
    )[0].tolist()
    cache, given = forward.new_cache(), text
    for _ in range(8):
        logits = forward.step([Piece(cache, given, wanted=True)])[0]
        given = [int(logits.argmax())]
        text = text + given
    assert text == expected


@torch.inference_mode()
def test_attention_that_the_entry_names_stays() -> None:
    one = loaded(LlamaConfig(**SMALL))
    one.model.set_attn_implementation("eager")
    assert isinstance(choose_forward(one, "eager"), Apart)
    assert attention.text_attention(one.model) == "eager"


@torch.inference_mode()
def test_states_count_as_memory() -> None:
    one = loaded(MambaConfig(**MAMBA))
    forward = Apart(one)
    cache = forward.new_cache()
    assert cache.size == 0
    forward.step([Piece(cache, [5, 9], wanted=False)])
    mixer = one.model.backbone.layers[0].mixer
    assert cache.size == 2 * 4 * mixer.intermediate_size * (mixer.conv_kernel_size + mixer.ssm_state_size)


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


def vision(folder: Path) -> tuple[Any, Piece]:
    bring_in()
    from transformers import AutoModelForImageTextToText

    made: Any = AutoModelForImageTextToText
    model = made.from_pretrained(folder, dtype=torch.float32).eval()
    attention.set_attention(model, attention.NAME)
    one = SimpleNamespace(model=model, device=torch.device("cpu"), kind="vision", vocabulary=VOCABULARY, window=512)
    count = (64 // 16) ** 2 // 4
    sample = Piece(
        cache=KeyValues(0),  # a sample is tried with caches of the trial's own
        tokens=[5, *[model.config.image_token_id] * count, 9, 11],
        wanted=True,
        media={"pixel_values": torch.randn(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))},
    )
    return one, sample


def spoil_images(model: Any, *, when: Callable[[dict[str, Any]], bool]) -> None:
    """Have the images of some calls look otherwise."""
    inner = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("pixel_values") is not None and when(kwargs):
            kwargs["pixel_values"] = -kwargs["pixel_values"]
        return inner(*args, **kwargs)

    model.forward = functools.wraps(inner)(forward)


def test_a_prompt_with_an_image_is_tried_too(tiny_vision_folder: Path) -> None:
    """Vision towers keep their own attention."""
    one, sample = vision(tiny_vision_folder)
    assert isinstance(choose_forward(one, "vision", sample), Together)
    assert one.model.config.vision_config._attn_implementation == "sdpa"


def test_where_images_go_wrong_together_each_is_asked_for_itself(tiny_vision_folder: Path) -> None:
    one, sample = vision(tiny_vision_folder)
    spoil_images(one.model, when=lambda kwargs: "packed" in kwargs)
    assert isinstance(choose_forward(one, "vision", sample), Apart)


def test_where_images_go_wrong_anyway_the_model_is_not_served(tiny_vision_folder: Path) -> None:
    one, sample = vision(tiny_vision_folder)
    spoil_images(one.model, when=lambda kwargs: kwargs["use_cache"] or "packed" in kwargs)
    with pytest.raises(LoadFailed, match="of images"):
        choose_forward(one, "vision", sample)


@torch.inference_mode()
def test_a_step_with_an_image_is_given_up_and_leaves_the_others_as_they_were(tiny_vision_folder: Path) -> None:
    one, sample = vision(tiny_vision_folder)
    forward = Together(one)
    image, text = forward.new_cache(), forward.new_cache()
    for cache in (image, text):
        cache.make_room(64)
    forward.step([Piece(text, [5, 9], wanted=False)])
    pieces = [Piece(image, sample.tokens, wanted=True, media=sample.media), Piece(text, [7], wanted=True)]
    looks: list[None] = []

    def in_the_texts_forward() -> bool:
        looks.append(None)
        return len(looks) > 2  # the image's two layers are through

    for given_up in (in_the_texts_forward, lambda: True):
        with pytest.raises(Interrupted):
            forward.step(pieces, given_up)
        assert (image.length, text.length) == (0, 2)
    again = forward.step(pieces)
    assert (image.length, text.length) == (len(sample.tokens), 3)
    assert torch.isfinite(again).all()
