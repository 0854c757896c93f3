"""What an engine of this process counts, in Prometheus' text form and under the names that llama-server has."""

from __future__ import annotations

from typing import Final

from manager.engines.hf.batch.counters import Counters

# Name, kind, what people read, and the attribute.
_FAMILIES: Final = (
    ("prompt_tokens_total", "counter", "Number of prompt tokens processed.", "prompt_tokens"),
    ("prompt_seconds_total", "counter", "Seconds of steps that read prompts.", "prompt_seconds"),
    ("tokens_predicted_total", "counter", "Number of tokens generated.", "tokens"),
    ("tokens_predicted_seconds_total", "counter", "Seconds of steps that only generated.", "seconds"),
    ("n_decode_total", "counter", "Number of steps.", "steps"),
    ("requests_processing", "gauge", "Sequences that are generated now.", "running"),
    ("requests_deferred", "gauge", "Sequences that wait for a place.", "waiting"),
    ("kv_cache_tokens", "gauge", "Tokens that the caches have room for.", "cache_tokens"),
)


def exposition(counters: Counters) -> bytes:
    """The text."""
    lines = []
    for name, kind, about, attribute in _FAMILIES:
        value = getattr(counters, attribute)
        lines.append(f"# HELP llamacpp:{name} {about}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n")
    return "".join(lines).encode()
