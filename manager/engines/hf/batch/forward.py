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

from manager.engines.hf.batch.attention import NAME, Interrupted, Packed
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
        found = {id(batch[0]): self._logits(batch, never) for batch in apart}
        rows = iter(self._logits(rest, never)) if rest else iter(())
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

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.length = 0
        self.capacity = 0
        self.deltas: Any = None  # what models with several axes of positions remember of images

    @property
    def size(self) -> int:
        tensors = [tensor for layer in self.inner.layers for tensor in vars(layer).values()]
        return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))

    def make_room(self, length: int) -> None:
        self.capacity = max(self.capacity, length)

    def shorten(self, length: int) -> bool:
        return length == self.length

    def copy(self, length: int) -> None:
        return None


class Apart:
    """Each sequence by itself, with the model's own attention and cache. Slower with several, and right for all."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        own_attention(self._model)
        self._deltas = [part for part in loaded.model.modules() if hasattr(part, "rope_deltas")]
        names = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in names else "past_key_values"
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
            logits_to_keep=1,
            **{self._cache_name: cache.inner, **_media(self._model, piece, self._device)},
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


def own_attention(model: Any) -> None:
    """Give the model the attention that it would have without us."""
    for name in ("sdpa", "eager"):
        try:
            model.set_attn_implementation(name)
            return
        except ValueError:
            continue


def choose_forward(loaded: LoadedModel, name: str, sample: Piece | None = None) -> Forward:
    """`Together` where the model gives the same logits with it, else `Apart`. Blocks for a few forwards.

    `sample`: a prompt with an image, for a model that takes them. Raises LoadFailed where neither gives the logits
    that the model gives of a whole text.
    """
    model = loaded.model
    with torch.inference_mode():
        ours = _implementation(model) == NAME
        apart = Apart(loaded)
        tokens = _trial_tokens(loaded)
        expected = _whole(loaded, Piece(apart.new_cache(), tokens, wanted=True))
        if ours:
            try:
                image = None if sample is None else _whole(loaded, sample)
                model.set_attn_implementation(_text_only(loaded, NAME))
                if _agrees(Together(loaded), tokens, expected) and (
                    sample is None or image is None or _agrees_on(Together(loaded), sample, image)
                ):
                    return Together(loaded)
                logger.info("model=%s its sequences can't share a forward: other logits", name)
            except Exception as error:  # whatever a model's code raises: then it is asked its own way
                logger.info("model=%s its sequences can't share a forward: %s", name, type(error).__name__)
                logger.debug("the trial failed", exc_info=True)
            own_attention(model)
        apart.chunks = _agrees_apart(apart, tokens, (_PART, _TRIAL - _PART - 1, 1), expected)
        if not apart.chunks and not _agrees_apart(apart, tokens, (_TRIAL - 1, 1), expected):
            raise LoadFailed(
                f"{type(model).__name__} gives other logits with a cache than without one, and can't be served.",
                should_retry=False,
            )
        return apart


def _implementation(model: Any) -> str:
    return str(model.config.get_text_config()._attn_implementation)


def _text_only(loaded: LoadedModel, name: str) -> Any:
    return name if loaded.kind == "text" else {"text_config": name}


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


def _agrees_on(forward: Together, sample: Piece, expected: torch.Tensor) -> bool:
    cache = forward.new_cache()
    cache.make_room(len(sample.tokens))
    got = forward.step([Piece(cache, sample.tokens, wanted=True, media=sample.media)]).float()
    return _close(got, expected[-1:])


def _close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(torch.isfinite(got).all()) and float((got - expected).abs().max()) <= _CLOSE * float(expected.std())
