"""The likeliest few tokens out of a whole vocabulary, found without sorting it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import pad

Array = np.ndarray[Any, Any]

# The maximum of each so many tokens is taken first; then only the blocks with the highest ones are looked at.
BLOCK: Final = 32
# All bits of a float32 but its sign; also more than any token.
LOW: Final = 0x7FFFFFFF


def leading(logits: torch.Tensor, count: int) -> tuple[Array, Array]:
    """The `count` highest logits of each row of float32 [rows, vocabulary], falling, and their tokens.

    Of equal logits the lower token comes first and is the one that is kept, so that a row gives the same at any
    `count`, beside any others and on any device. NaN counts as infinity. Where `count` is above the vocabulary's size,
    all come.
    """
    rows, width = logits.shape
    count = min(count, width)
    if width % BLOCK:
        logits = pad(logits, (0, -width % BLOCK), value=-torch.inf)
    blocks = logits.view(rows, -1, BLOCK)
    best = torch.arange(blocks.shape[1], device=logits.device).expand(rows, -1)
    if count < blocks.shape[1]:
        # As many blocks as tokens are enough, of equal ones the first: what leads in another is behind all of theirs.
        best = _keys(blocks.amax(2), best).topk(count).indices
        flat = best + blocks.shape[1] * torch.arange(rows, device=logits.device)[:, None]
        blocks = blocks.reshape(-1, BLOCK).index_select(0, flat.view(-1))
    tokens = best[:, :, None] * BLOCK + torch.arange(BLOCK, device=logits.device)
    keys = _keys(blocks.reshape(rows, -1), tokens.view(rows, -1)).topk(count).values
    return _values(keys.cpu().numpy())


def _keys(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """int64, in the order of the float32 values, and where these are equal in the falling order of the places."""
    # Adding zero makes minus zero plus zero.
    bits = torch.nan_to_num(values + 0.0, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ LOW, bits)
    return (ordered.long() << 32) + (LOW - places)


def _values(keys: Array) -> tuple[Array, Array]:
    """Values and places of keys."""
    ordered = (keys >> 32).astype(np.int32)
    bits = np.where(ordered < 0, ordered ^ np.int32(LOW), ordered)
    return bits.view(np.float32), LOW - (keys & LOW)
