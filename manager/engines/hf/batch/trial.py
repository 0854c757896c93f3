"""Whether the sequences of a model can share a forward: not read off its class but tried when it is loaded."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from manager.engines.hf.batch.attention import NAME, own_attention, set_attention, text_attention
from manager.engines.hf.batch.forward import Apart, Forward, Piece, Together, media_of
from manager.engines.hf.loading.load import LoadedModel
from manager.errors import LoadFailed

logger = logging.getLogger(__name__)

# The trial: so many tokens in a row, of which the shorter sequence gets the first part at once.
_TRIAL: Final = 10
_PART: Final = 6
# How far logits may be from those of the model's own attention, in parts of their standard deviation. Sums in bfloat16
# differ by a fiftieth; a token that looks at the wrong ones by about one.
_CLOSE: Final = 0.2


def choose_forward(loaded: LoadedModel, name: str, sample: Piece | None = None) -> Forward:
    """`Together` where the model gives the same logits with it, else `Apart`. Blocks for a few forwards.

    `sample`: a prompt with an image, for a model that takes them. Raises LoadFailed where neither gives the logits
    that the model gives of a whole text; whatever the model's code raises where not even that can be asked.
    """
    with torch.inference_mode():
        ours = text_attention(loaded.model) == NAME
        apart = Apart(loaded)
        tokens = _trial_tokens(loaded)
        expected = _whole(loaded, Piece(apart.new_cache(), tokens, wanted=True))
        image = None if sample is None else (sample, _whole(loaded, sample))
        if ours:
            try:
                reason = _needs_its_own(loaded) or _tried(loaded, tokens, expected, image)
            except Exception as error:  # whatever a model's code raises: then it is asked its own way
                reason = type(error).__name__
                logger.debug("the trial failed", exc_info=True)
            if not reason:
                return Together(loaded)
            logger.info("model=%s its sequences can't share a forward: %s", name, reason)
            own_attention(loaded.model)
        apart.chunks = _agrees_apart(apart, tokens, (_PART, _TRIAL - _PART - 1, 1), expected)
        if not apart.chunks and not _agrees_apart(apart, tokens, (_TRIAL - 1, 1), expected):
            raise _not_served(loaded, "with a cache")
        if image is not None and not _agrees_on(apart, *image):
            raise _not_served(loaded, "of images with a cache")
        return apart


def _needs_its_own(loaded: LoadedModel) -> str:
    """Why the sequences can't share a forward although a trial with short ones would succeed; "" where they can."""
    text = loaded.model.config.get_text_config()
    chunk = getattr(text, "attention_chunk_size", None)
    if chunk and chunk < loaded.window:
        return "attention by chunks"  # which only the mask tells of
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):
        kind = str(one.get("rope_type", one.get("type", "")))
        sources = one.get("original_max_position_embeddings"), getattr(text, "original_max_position_embeddings", None)
        most = next((value for value in sources if value), getattr(text, "max_position_embeddings", None))
        if ("longrope" in kind or "dynamic" in kind) and (most is None or loaded.window > most):
            return "angles that depend on the longest sequence"
    return ""


def _tried(
    loaded: LoadedModel, tokens: list[int], expected: torch.Tensor, image: tuple[Piece, torch.Tensor] | None
) -> str:
    """Why `Together` is none for the model, which has our attention afterwards; "" where it is."""
    set_attention(loaded.model, NAME)
    if not _agrees(Together(loaded), tokens, expected):
        return "other logits"
    return "" if image is None or _agrees_on(Together(loaded), *image) else "other logits of images"


def _not_served(loaded: LoadedModel, what: str) -> LoadFailed:
    return LoadFailed(
        f"{type(loaded.model).__name__} gives other logits {what} than without one, and can't be served.",
        should_retry=False,
    )


def _trial_tokens(loaded: LoadedModel) -> list[int]:
    step = max(1, loaded.vocabulary // (4 * _TRIAL))
    return [step * (number + 1) for number in range(_TRIAL)]


def _whole(loaded: LoadedModel, piece: Piece) -> torch.Tensor:
    """Logits [tokens, vocabulary] as the model gives them by itself."""
    ids = torch.tensor([list(piece.tokens)], device=loaded.device)
    media = media_of(loaded.model, piece, loaded.device)
    logits: torch.Tensor = loaded.model(input_ids=ids, use_cache=False, **media).logits[0]
    return logits.float()


def _agrees(forward: Together, tokens: list[int], expected: torch.Tensor) -> bool:
    """Two sequences of different lengths beside each other, and then a token of each."""
    short, long = forward.new_cache(), forward.new_cache()
    for cache in (short, long):
        cache.make_room(len(tokens))
    first = forward.step([Piece(short, tokens[:_PART], wanted=True), Piece(long, tokens[: _TRIAL - 1], wanted=True)])
    second = forward.step([Piece(short, tokens[_PART : _PART + 1], wanted=True), Piece(long, tokens[-1:], wanted=True)])
    third = forward.step([Piece(short, tokens[_PART + 1 :], wanted=True)])
    got = torch.cat([first, second, third]).float()
    return _close(got, expected[[_PART - 1, _TRIAL - 2, _PART, _TRIAL - 1, _TRIAL - 1]])


def _agrees_apart(forward: Apart, tokens: list[int], parts: Sequence[int], expected: torch.Tensor) -> bool:
    cache, start, got = forward.new_cache(), 0, []
    for part in parts:
        cache.make_room(start + part)
        got.append(forward.step([Piece(cache, tokens[start : start + part], wanted=True)]))
        start += part
    return _close(torch.cat(got).float(), expected[[end - 1 for end in itertools.accumulate(parts)]])


def _agrees_on(forward: Forward, sample: Piece, expected: torch.Tensor) -> bool:
    cache = forward.new_cache()
    cache.make_room(len(sample.tokens))
    got = forward.step([Piece(cache, sample.tokens, wanted=True, media=sample.media)]).float()
    return _close(got, expected[-1:])


def _close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(torch.isfinite(got).all()) and float((got - expected).abs().max()) <= _CLOSE * float(expected.std())
