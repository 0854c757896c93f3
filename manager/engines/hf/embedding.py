"""Embeddings: what a request asks for, the vectors of its texts, and the answer in OpenAI's form."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from manager.engines.hf.batch.attention import Interrupted
from manager.engines.hf.batch.forward import never
from manager.engines.hf.loading.folder import Mode, Recipe
from manager.engines.hf.loading.load import LoadedModel
from manager.errors import ContextLengthExceeded, InvalidRequest

INPUTS_MOST: Final = 2048  # of one request, as OpenAI has it
BATCH_TOKENS: Final = 2048
# So many texts are made tokens at once: a request of the most and longest would take seconds.
TEXTS_AT_ONCE: Final = 64
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts, or token ids (which get no special tokens beside them). `base64`: how the vectors are to be written."""

    inputs: tuple[str | tuple[int, ...], ...]
    base64: bool = False


def embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """What the body of a request for embeddings asks for. Raises InvalidRequest naming the field."""
    if body.get("dimensions") is not None:
        raise InvalidRequest(
            "'dimensions' is not supported: vectors have the length that the model gives them.", param="dimensions"
        )
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidRequest("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    given = body.get("input")
    items = [given] if isinstance(given, str) or _are_tokens(given) else given
    if (
        not isinstance(items, list)
        or not items
        or not all(isinstance(item, str) or _are_tokens(item) for item in items)
    ):
        raise InvalidRequest(
            "'input' must be a string, an array of token ids, or an array of these; and none may be empty.",
            param="input",
        )
    if len(items) > INPUTS_MOST:
        raise InvalidRequest(f"'input' has {len(items)} items; {INPUTS_MOST} are the most.", param="input")
    return EmbeddingRequest(
        tuple(item if isinstance(item, str) else tuple(item) for item in items), base64=form == "base64"
    )


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


class Embedder:
    """Makes vectors of texts with one model. Its methods block; one call at a time.

    `batch_tokens`: most tokens of one forward, padding included, where more than one text is in it.
    """

    def __init__(self, loaded: LoadedModel, batch_tokens: int | None = None) -> None:
        self._loaded = loaded
        self._recipe = loaded.recipe or Recipe(("mean",))
        # As sentence-transformers has it: its own limit, else what tokenizer and model take.
        limit = self._recipe.limit or loaded.tokenizer.model_max_length
        self.limit = int(min(limit, loaded.window))
        self._batch_tokens = batch_tokens or BATCH_TOKENS

    def embed(
        self,
        inputs: Sequence[str | Sequence[int]],
        given_up: Callable[[], bool] = never,
        note: Callable[[int], None] = lambda _: None,
    ) -> list[tuple[Vector, int]]:
        """Of each input its vector, float32 [width], and the number of its tokens.

        `given_up` is asked before each batch, `note` gets the number of its tokens (no padding) after it. Raises
        ContextLengthExceeded for an input that is too long (nothing is cut off), InvalidRequest for an unknown token,
        Interrupted where it is given up.
        """
        tokens = self._tokens(inputs, given_up)
        found: list[Vector | None] = [None] * len(tokens)
        for batch in _batches([len(ids) for ids in tokens], self._batch_tokens):
            _stop_if(given_up)
            for place, vector in zip(batch, self._forward([tokens[place] for place in batch]), strict=True):
                found[place] = vector
            note(sum(len(tokens[place]) for place in batch))
        return [(vector, len(ids)) for vector, ids in zip(found, tokens, strict=True) if vector is not None]

    def _tokens(self, inputs: Sequence[str | Sequence[int]], given_up: Callable[[], bool]) -> list[list[int]]:
        texts = [text.lower() if self._recipe.lower else text for text in inputs if isinstance(text, str)]
        made: list[list[int]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            _stop_if(given_up)
            part = texts[start : start + TEXTS_AT_ONCE]
            made += self._loaded.tokenizer(part, padding=False, truncation=False, verbose=False)["input_ids"]
        of_texts = iter(made)
        tokens = [next(of_texts) if isinstance(one, str) else list(one) for one in inputs]
        for number, ids in enumerate(tokens):
            where = "input" if len(tokens) == 1 else f"input[{number}]"
            if len(ids) > self.limit:
                raise ContextLengthExceeded(
                    f"'{where}' has {len(ids)} tokens; this model takes {self.limit}.", param="input"
                )
            if not ids:
                raise InvalidRequest(f"'{where}' is empty.", param="input")
            if min(ids) < 0 or max(ids) >= self._loaded.vocabulary:
                raise InvalidRequest(f"'{where}' has a token id that the model does not know.", param="input")
        return tokens

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Sequence[int]]) -> Iterator[Vector]:
        """Token ids, the longest first, to their vectors."""
        device = self._loaded.device
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.zeros((len(batch), int(lengths.max())), dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        # What the padding is does not matter to masked attention, but some models count positions by its id.
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        ids.masked_fill_(~mask, self._loaded.tokenizer.pad_token_id or 0)
        ids, mask = ids.to(device), mask.to(device)
        hidden = self._loaded.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        pooled = torch.cat([pool(hidden, mask, mode) for mode in self._recipe.modes], dim=1)
        if self._recipe.normalize:
            pooled = F.normalize(pooled, dim=1)
        return iter(pooled.cpu().numpy())


def _stop_if(given_up: Callable[[], bool]) -> None:
    if given_up():
        raise Interrupted


def pool(hidden: torch.Tensor, mask: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Hidden states [rows, tokens, width] to one vector each [rows, width], as sentence-transformers' Pooling.

    `mask` bool [rows, tokens]: which are no padding, which comes last.
    """
    held = mask[:, :, None].to(hidden.dtype)
    count = held.sum(1)
    match mode:
        case "cls":
            return hidden[:, 0]
        case "last":
            last = mask.sum(1) - 1
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        case "max":
            return hidden.masked_fill(~mask[:, :, None], float("-inf")).amax(1)
        case "mean":
            return (hidden * held).sum(1) / count
        case "mean_sqrt_len":
            return (hidden * held).sum(1) / count.sqrt()
        case "weightedmean":
            weights = held * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
            return (hidden * weights).sum(1) / weights.sum(1)


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of the inputs for each forward, the longest first, so that little is padded."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def embeddings_answer(model: str, vectors: Sequence[tuple[Vector, int]], *, as_base64: bool = False) -> bytes:
    """OpenAI's answer with vectors and usage. In base64 they are little-endian float32, as OpenAI's are."""
    tokens = sum(count for _, count in vectors)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector,
        }
        for index, (vector, _) in enumerate(vectors)
    ]
    answer = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
