"""Attention of several sequences in one forward: their new tokens lie in a row, each looks at its own cache only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F

from manager.engines.hf.batch.cache import BLOCK, KeyValues

# Under this name transformers' models find `attend`.
NAME: Final = "herd"


def text_attention(model: Any) -> str:
    """The name of the attention that the model's text part uses."""
    return str(model.config.get_text_config()._attn_implementation)


def can_use_ours(model: Any) -> bool:
    """Whether all of the model's text part takes its attention from transformers' AttentionInterface.

    Others would go without a causal mask, or fail.
    """
    from transformers import PreTrainedModel

    text = model.config.get_text_config()
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel) and part.config is text]
    return all(part._supports_attention_backend and part._can_set_attn_implementation() for part in parts or [model])


def set_attention(model: Any, name: str) -> None:
    """Have the text part use the attention of that name; towers keep theirs. Raises ValueError where it can't."""
    model.set_attn_implementation(_for_text(model.config, model.config.get_text_config(), name) or name)


def _for_text(config: Any, text: Any, name: str) -> Any:
    """`name` under the keys that lead from `config` to `text`; None where none do."""
    if config is text:
        return name
    for key in config.sub_configs:
        part = getattr(config, key, None)
        found = None if part is None else _for_text(part, text, name)
        if found is not None:
            return {key: found}
    return None


def own_attention(model: Any) -> None:
    """Where the model has ours: give it the attention that it would have without us."""
    if text_attention(model) != NAME:
        return
    try:
        set_attention(model, "sdpa")
    except ValueError:
        set_attention(model, "eager")


class Interrupted(Exception):
    """A forward was given up between two layers. The caches know as much as before it."""


class Packed:
    """The sequences of one forward: which rows are whose. `pieces`: cache and number of new tokens, in a row.

    `given_up` is asked at each layer.
    """

    __slots__ = ("_masks", "given_up", "pieces", "single")

    def __init__(self, pieces: Sequence[tuple[KeyValues, int]], given_up: Callable[[], bool]) -> None:
        self.pieces = pieces
        self.given_up = given_up
        self.single = all(count == 1 for _, count in pieces)
        self._masks: dict[tuple[int, int, int], torch.Tensor] = {}

    def mask(self, past: int, count: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Which of past + count tokens each of the last `count` may look at: bool [count, past + count]."""
        key = (past, count, window or 0)
        found = self._masks.get(key)
        if found is None or found.device != device:
            row = torch.arange(past, past + count, device=device)[:, None]
            column = torch.arange(past + count, device=device)[None, :]
            found = column <= row
            if window:
                found &= column > row - window
            self._masks[key] = found
        return found


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed: Packed | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Query [1, heads, rows, width], key and value [1, key heads, rows, width] to [1, rows, heads, width].

    Puts the new keys and values into the caches on the way. Raises Interrupted where the forward is given up. Without
    `packed` it is torch's own attention (vision towers). `sliding_window`, `softcap`, `s_aux` (attention sinks): as
    transformers' models give them.
    """
    if packed is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: torch.Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )[0]
        return out, None
    if packed.given_up():
        raise Interrupted
    layer: int = module.layer_idx  # type: ignore[assignment]
    plain = softcap is None and s_aux is None
    if plain and packed.single:
        return _decode(packed, layer, query, key, value, scaling, sliding_window), None
    parts: list[torch.Tensor] = []
    start = 0
    for cache, count in packed.pieces:
        past, end = cache.length, start + count
        keys, values = cache.layer(layer, key, value)
        keys[:, :, past : past + count] = key[:, :, start:end]
        values[:, :, past : past + count] = value[:, :, start:end]
        keys, values = keys[:, :, : past + count], values[:, :, : past + count]
        q = query[:, :, start:end]
        if plain:
            parts += _blocks(packed, q, keys, values, scaling, sliding_window)
        else:
            mask = packed.mask(past, count, sliding_window, q.device)
            parts.append(_by_hand(q, keys, values, mask, scaling, softcap, s_aux))
        start = end
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _blocks(
    packed: Packed,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> list[torch.Tensor]:
    """The last tokens of a sequence, of which `keys` and `values` know all.

    On a CPU in blocks that end where positions are multiples of BLOCK: a call of other lengths adds up in another
    order, and what a token gets must not depend on how much of its prompt was read together, or known before.
    """
    end = keys.shape[2]
    at = past = end - query.shape[2]
    parts = []
    while at < end:
        until = min(end, (at // BLOCK + 1) * BLOCK) if query.device.type == "cpu" else end
        q = query[:, :, at - past : until - past]
        first = max(0, at + 1 - window) if window else 0
        k, v = keys[:, :, first:until], values[:, :, first:until]
        if until - at == 1:
            heads, width, key_heads = q.shape[1], q.shape[3], k.shape[1]
            grouped = q.reshape(1, key_heads, heads // key_heads, width)
            parts.append(F.scaled_dot_product_attention(grouped, k, v, scale=scaling).reshape(1, heads, 1, -1))
        else:
            mask = packed.mask(at, until - at, window, q.device)[:, first:]
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True))
        at = until
    return parts


def _decode(
    packed: Packed,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One new token of each sequence, which may look at everything before: no mask.

    The query heads that share a key head are given as rows of one head: 5 times faster on a CPU than repeated keys.
    """
    _, heads, rows, width = query.shape
    key_heads = key.shape[1]
    queries = query[0].transpose(0, 1).reshape(rows, 1, key_heads, heads // key_heads, width).unbind(0)
    new_keys, new_values = key.unbind(2), value.unbind(2)
    parts = []
    for row, (cache, _) in enumerate(packed.pieces):
        past = cache.length
        keys, values = cache.layer(layer, key, value)
        keys.select(2, past).copy_(new_keys[row])
        values.select(2, past).copy_(new_values[row])
        first = max(0, past + 1 - window) if window else 0
        keys, values = keys.narrow(2, first, past + 1 - first), values.narrow(2, first, past + 1 - first)
        parts.append(F.scaled_dot_product_attention(queries[row], keys, values, scale=scaling))
    return torch.cat(parts).view(1, rows, heads, value.shape[-1])


def _by_hand(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """With capped scores, or with sinks (a score by head that takes its part of the softmax and gives nothing)."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = (query @ keys.transpose(2, 3)).float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.float().view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(-1)[..., : keys.shape[2]].to(values.dtype)
    return weights @ values
