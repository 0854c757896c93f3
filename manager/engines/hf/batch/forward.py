"""One step of a model: the new tokens of several sequences in, the logits of their last ones out.

Most models can take all sequences in one forward (`Together`). Whether one can is not read off its class but tried when
it is loaded, against its own attention; one that can't is asked for each sequence by itself (`Apart`).
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from manager.engines.hf.batch.attention import (
    NAME,
    Interrupted,
    Packed,
    own_attention,
    set_attention,
    text_attention,
)
from manager.engines.hf.batch.cache import KeyValues, SequenceCache
from manager.engines.hf.loading.load import LoadedModel
from manager.errors import LoadFailed

logger = logging.getLogger(__name__)

# The trial: so many tokens in a row, of which the shorter sequence gets the first part at once.
_TRIAL: Final = 10
_PART: Final = 6
# How far logits may be from those of the model's own attention, in parts of their standard deviation. Sums in bfloat16
# differ by a fiftieth; a token that looks at the wrong ones by about one.
_CLOSE: Final = 0.2


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Piece:
    """What one sequence brings to a step: tokens that its cache does not know yet. `wanted`: its logits are asked for.

    With `media` the tokens are all that there are, and the cache is empty.
    """

    cache: SequenceCache
    tokens: Sequence[int]
    wanted: bool
    media: Mapping[str, Any] | None = None


class Forward(Protocol):
    """How a model takes a step. For the thread that generates, in inference mode.

    `chunks`: whether a cache that knows some tokens can take several more at once; else they are read all together.
    """

    chunks: bool

    def new_cache(self) -> SequenceCache: ...

    def step(self, pieces: Sequence[Piece], given_up: Callable[[], bool] = never) -> torch.Tensor:
        """Logits [pieces that want them, vocabulary]. The caches know the tokens afterwards, but not after an error.

        Raises Interrupted soon after `given_up` is true.
        """


class Together:
    """All sequences in one forward; their caches have room for the new tokens."""

    chunks = True

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._layers = loaded.model.config.get_text_config().num_hidden_layers

    def new_cache(self) -> KeyValues:
        return KeyValues(self._layers)

    def step(self, pieces: Sequence[Piece], given_up: Callable[[], bool] = never) -> torch.Tensor:
        # Images go with the tokens of one sequence: what tells of each token must be as long as these.
        apart = [[piece] for piece in pieces if piece.media is not None]
        if not apart or len(pieces) == 1:
            return self._logits(pieces, given_up)
        rest = [piece for piece in pieces if piece.media is None]
        known = [piece.cache.length for piece in pieces]
        try:
            found = {id(batch[0]): self._logits(batch, given_up) for batch in apart}
            rows = iter(self._logits(rest, given_up)) if rest else iter(())
        except Interrupted:
            for piece, length in zip(pieces, known, strict=True):
                piece.cache.shorten(length)
            raise
        wanted = [piece for piece in pieces if piece.wanted]
        return torch.stack([found[id(piece)][0] if piece.media is not None else next(rows) for piece in wanted])

    def _logits(self, pieces: Sequence[Piece], given_up: Callable[[], bool]) -> torch.Tensor:
        tokens: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        spans: list[tuple[KeyValues, int]] = []
        for piece in pieces:
            cache = piece.cache
            assert isinstance(cache, KeyValues)  # noqa: S101  we made it
            spans.append((cache, len(piece.tokens)))
            tokens.extend(piece.tokens)
            positions.extend(range(cache.length, cache.length + len(piece.tokens)))
            if piece.wanted:
                last.append(len(tokens) - 1)
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([tokens], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            use_cache=False,
            # At least one row, as no row is what some models take for all.
            logits_to_keep=torch.tensor(last or [0], device=self._device),
            packed=Packed(spans, given_up),
            **_media(self._model, pieces[0], self._device),
        ).logits[0]
        for cache, count in spans:
            cache.length += count
        return logits[: len(last)]


class OwnCache:
    """A cache of transformers' own, which can't be shared or shortened."""

    __slots__ = ("capacity", "deltas", "inner", "length")
    divisible = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.length = 0
        self.capacity = 0
        self.deltas: Any = None  # what models with several axes of positions remember of images

    @property
    def size(self) -> int:
        return sum(_bytes(value) for layer in self.inner.layers for value in vars(layer).values())

    def make_room(self, length: int) -> None:
        self.capacity = max(self.capacity, length)

    def shorten(self, length: int) -> bool:
        return length == self.length

    def copy(self, length: int) -> None:
        return None


def _bytes(value: Any) -> int:
    """Of a tensor, or of those in a dict or a list."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(_bytes(one) for one in value)


class Apart:
    """Each sequence by itself, with the model's own attention and cache. Slower with several, and right for all."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        own_attention(self._model)
        self._deltas = [part for part in loaded.model.modules() if hasattr(part, "rope_deltas")]
        names = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in names else "past_key_values"
        self._last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
        self.chunks = True

    def new_cache(self) -> OwnCache:
        from transformers import DynamicCache

        return OwnCache(DynamicCache(config=self._model.config))

    def step(self, pieces: Sequence[Piece], given_up: Callable[[], bool] = never) -> torch.Tensor:
        if given_up():
            raise Interrupted
        rows = [row for row, piece in [(self._logits(piece), piece) for piece in pieces] if piece.wanted]
        return torch.stack(rows) if rows else torch.empty(0)

    def _logits(self, piece: Piece) -> torch.Tensor:
        cache = piece.cache
        assert isinstance(cache, OwnCache)  # noqa: S101  we made it
        for part in self._deltas:
            part.rope_deltas = cache.deltas
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([list(piece.tokens)], device=self._device),
            use_cache=True,
            **{**self._last, self._cache_name: cache.inner, **_media(self._model, piece, self._device)},
        ).logits[0, -1]
        cache.deltas = next((part.rope_deltas for part in self._deltas), None)
        cache.length += len(piece.tokens)
        return logits


def _media(model: Any, piece: Piece, device: torch.device) -> dict[str, Any]:
    """What the processor made of a piece's images, as the model takes it: on its device, in its type.

    What tells of each token is made longer for tokens that came after the prompt.
    """
    made: dict[str, Any] = {}
    for name, value in (piece.media or {}).items():
        if isinstance(value, torch.Tensor):
            value = value.to(device, model.dtype) if value.is_floating_point() else value.to(device)
            missing = len(piece.tokens) - value.shape[-1]
            if name.endswith("token_type_ids") and missing > 0:
                value = torch.nn.functional.pad(value, (0, missing))
        made[name] = value
    return made


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
    media = _media(loaded.model, piece, loaded.device)
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
