"""What a request for a chat or completion asks of the sampler, and how long its answers may be.

Names, meanings and defaults are llama-server's (server-schema.cpp). Prompts, tools and grammars are not read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from manager.engines.hf.generation import Sampling
from manager.engines.hf.wire.unsupported import FieldError, refuse_unsupported

Body = Mapping[str, Any]
# The tokens of a text, without those that begin or end a prompt.
Encode = Callable[[str], Sequence[int]]

INTEGERS: Final = 2**31 - 1
SEEDS: Final = 2**32
RANDOM_SEED: Final = SEEDS - 1  # llama.cpp's -1
MOST_CHOICES: Final = 128
# Likeliest tokens told of with each (OpenAI, and llama-server's default).
MOST_TOP: Final = 20
# Each is looked for at every token, in the thread that all sequences share: so many take 0.05 ms.
MOST_STOPS: Final = 128
# What logits can be.
FLOATS: Final = 3.4028234663852886e38

# The lowest and the highest value of what can be set per request, by the entry and by the folder.
NUMBERS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, FLOATS),
    "typical_p": (0, 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (1e-6, FLOATS),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
COUNTS: Final[dict[str, tuple[int, int]]] = {"top_k": (-1, INTEGERS), "repeat_last_n": (-1, INTEGERS)}
# Names of the limit of an answer, in the order in which they count.
LENGTHS: Final = ("n_predict", "max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """How many answers, how long, and in what form.

    `max_tokens` None: no limit of its own; 0: nothing is generated. `reuse`: whether the caches of earlier requests may
    serve this one (cache_prompt).
    """

    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False
    reuse: bool = True


def read_sampling(
    body: Body, defaults: Mapping[str, float | int], entry: object, *, vocabulary: int, encode: Encode
) -> Sampling:
    """The sampling of a request, then of the `entry`'s parameters, then of the folder (`defaults`), then llama.cpp's.

    Raises FieldError. `vocabulary`: how many tokens the model knows.
    """
    values: dict[str, Any] = {}
    for name in (*NUMBERS, *COUNTS):
        asked = _count(body, name, *COUNTS[name]) if name in COUNTS else _number(body, name, *NUMBERS[name])
        value = next(
            (each for each in (asked, getattr(entry, name, None), defaults.get(name)) if each is not None), None
        )
        if value is not None:
            values[name] = int(value) if name in COUNTS else float(value)
    if "top_k" in values:
        values["top_k"] = max(0, values["top_k"])
    return Sampling(
        **values,
        logit_bias=_logit_bias(body.get("logit_bias"), vocabulary, encode),
        seed=_seed(body, entry),
        top_logprobs=_top_logprobs(body),
    )


def read_limits(body: Body, entry: object) -> AnswerLimits:
    """Raises FieldError, also for what we can't honour (`refuse_unsupported`)."""
    n = _count(body, "n_cmpl", 1, MOST_CHOICES) or _count(body, "n", 1, MOST_CHOICES) or 1
    refuse_unsupported(body, n)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise FieldError("stream_options", "must be an object")
    lengths = (_count(body, name, -1, INTEGERS) for name in LENGTHS)
    asked = next((length for length in lengths if length is not None), None)
    length = getattr(entry, "n_predict", None) if asked is None else asked
    return AnswerLimits(
        max_tokens=None if length is None or length < 0 else length,
        n=n,
        stop=_stop(body.get("stop")),
        ignore_eos=read_flag(body, "ignore_eos"),
        stream=read_flag(body, "stream"),
        include_usage=read_flag(options or {}, "include_usage", "stream_options.include_usage"),
        reuse=read_flag(body, "cache_prompt", default=True),
    )


def _number(body: Body, name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) not in {int, float} or not low <= value <= high:
        raise FieldError(name, f"must be a number {_range(low, high)}")
    return float(value)


def _count(body: Body, name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise FieldError(name, f"must be an integer {_range(low, high)}")
    return value


def _range(low: float, high: float) -> str:
    least = "above 0" if low == NUMBERS["repeat_penalty"][0] else f"of at least {low}"
    return f"{least} and at most {high}"


def read_flag(body: Body, name: str, called: str | None = None, *, default: bool = False) -> bool:
    """Raises FieldError, which names it as `called`."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise FieldError(called or name, "must be true or false")
    return value


def _stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise FieldError("stop", "must be a string or an array of strings")
    if "" in stops:
        raise FieldError("stop", "has an empty string, which would end every answer before it begins")
    if len(stops) > MOST_STOPS:
        raise FieldError("stop", f"has more than {MOST_STOPS} strings")
    return tuple(dict.fromkeys(stops))


def _seed(body: Body, entry: object) -> int | None:
    """None: another one each time. llama.cpp's seeds have 32 bits; of a longer one the last 32 count."""
    value = body.get("seed")
    if value is None:
        value = getattr(entry, "seed", None)
    if value is None:
        return None
    if type(value) is not int:
        raise FieldError("seed", "must be an integer")
    seed = value % SEEDS
    return None if seed == RANDOM_SEED else seed


def _top_logprobs(body: Body) -> int | None:
    """`logprobs` is OpenAI's flag of a chat, with `top_logprobs`, or a completion's count; n_probs is llama.cpp's."""
    probs = _count(body, "n_probs", 0, MOST_TOP)
    top = _count(body, "top_logprobs", 0, MOST_TOP)
    asked = body.get("logprobs")
    if asked is True:
        return MOST_TOP if top is None else top
    if top is not None:
        raise FieldError("top_logprobs", "requires 'logprobs' to be true")
    if asked is not None and asked is not False:
        return _count(body, "logprobs", 0, MOST_TOP)
    return probs or None


def _logit_bias(value: Any, vocabulary: int, encode: Encode) -> Mapping[int, float]:
    """OpenAI's {"id": bias}, or llama.cpp's [[id or text, bias]]; false as a bias forbids the token."""
    if value is None:
        return {}
    if isinstance(value, dict):
        pairs = [(int(key) if _is_integer(key) else key, bias) for key, bias in value.items()]
    elif isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = [(pair[0], pair[1]) for pair in value]
    else:
        raise FieldError("logit_bias", "must be an object, or an array of pairs of a token and its bias")
    biases: dict[int, float] = {}
    for which, given in pairs:
        bias = _bias(given)
        for token in _tokens(which, vocabulary, encode):
            total = biases[token] = biases.get(token, 0.0) + bias  # of several all count, as in llama.cpp
            if FLOATS < abs(total) < math.inf:
                raise FieldError("logit_bias", f"has a bias beyond {FLOATS:g}")
    return biases


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20


def _bias(value: Any) -> float:
    if value is False:
        return -math.inf
    if type(value) not in {int, float} or not math.isfinite(value):
        raise FieldError("logit_bias", "has a bias that is neither a number nor false")
    return float(value)


def _tokens(which: Any, vocabulary: int, encode: Encode) -> Sequence[int]:
    if isinstance(which, str):
        return encode(which)
    if type(which) is not int:
        raise FieldError("logit_bias", "has a token that is neither an id nor a text")
    if not 0 <= which < vocabulary:
        raise FieldError("logit_bias", f"has the token id {which}; the model's ids end at {vocabulary - 1}")
    return (which,)
