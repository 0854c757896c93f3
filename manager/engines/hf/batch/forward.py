"""One step of a model: the new tokens of several sequences in, the logits of their last ones out.

Most models can take all sequences in one forward (`Together`), which `trial` finds out; one that can't is asked for
each sequence by itself (`Apart`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from manager.engines.hf.batch.attention import Interrupted, Packed, own_attention
from manager.engines.hf.batch.cache import KeyValues, SequenceCache
from manager.engines.hf.loading.load import LoadedModel


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
            **media_of(self._model, pieces[0], self._device),
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
            **{**self._last, self._cache_name: cache.inner, **media_of(self._model, piece, self._device)},
        ).logits[0, -1]
        cache.deltas = next((part.rope_deltas for part in self._deltas), None)
        cache.length += len(piece.tokens)
        return logits


def media_of(model: Any, piece: Piece, device: torch.device) -> dict[str, Any]:
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
