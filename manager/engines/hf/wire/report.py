"""The numbers at the end of an answer: OpenAI's usage and llama-server's timings.

`firsts` has one ending for each prompt, which tells of the prompt; `ends` all of them.
"""

from __future__ import annotations

from typing import Any

from manager.engines.hf.generation import Ending


def usage_of(firsts: list[Ending], ends: list[Ending]) -> dict[str, Any]:
    prompt, tokens = sum(end.prompt_tokens for end in firsts), sum(end.tokens for end in ends)
    return {
        "completion_tokens": tokens,
        "prompt_tokens": prompt,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached for end in firsts)},
    }


def timings_of(firsts: list[Ending], ends: list[Ending]) -> dict[str, float]:
    """llama-server's; its time of generation begins with the first token, so that there is one less to divide by."""
    firsts = [end for end in firsts if end.tokens]  # where nothing is generated no prompt is read
    cached = sum(end.cached for end in firsts)
    new, tokens = sum(end.prompt_tokens for end in firsts) - cached, sum(end.tokens for end in ends)
    later = sum(max(0, end.tokens - 1) for end in ends)
    prompt_ms, predicted_ms = sum(end.prompt_seconds for end in firsts) * 1e3, sum(end.seconds for end in ends) * 1e3
    return {
        "cache_n": cached,
        "prompt_n": new,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / new if new else 0.0,
        "prompt_per_second": new / prompt_ms * 1e3 if prompt_ms else 0.0,
        "predicted_n": tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / later if later else 0.0,
        "predicted_per_second": later / predicted_ms * 1e3 if predicted_ms else 0.0,
    }
