"""Chats of mixed lengths, several at a time, and what was seen of their answers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

import aiohttp

# fmt: off
# Each is one token with nearly any tokenizer.
WORDS: Final = (
    "the", "a", "one", "two", "three", "old", "new", "good", "long", "small", "red", "blue", "man", "woman", "child",
    "dog", "cat", "house", "river", "road", "day", "night", "year", "time", "word", "book", "car", "ship", "city",
    "king", "is", "was", "has", "had", "can", "will", "said", "made", "found", "took", "came", "went", "saw", "gave",
    "and", "or", "but", "with", "from", "under", "over", "near", "after", "before", "in", "on", "at", "of", "to",
)
# fmt: on
PROMPT: Final = (20, 400)  # tokens, without what the template adds
ANSWER: Final = (48, 128)  # tokens
PATIENCE: Final = 300.0  # seconds for one answer


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a prompt, and how many tokens must be generated."""

    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A streamed answer. Times are time.perf_counter(); `arrivals` has one for each piece of text."""

    sent: float
    arrivals: tuple[float, ...]
    tokens: int

    @property
    def first(self) -> float:
        return self.arrivals[0] - self.sent

    def within(self, begin: float, end: float) -> float:
        """How many of its tokens came in that time."""
        return self.tokens * sum(begin <= at < end for at in self.arrivals) / len(self.arrivals)


@dataclass(frozen=True, slots=True)
class Seen:
    """One round: tokens asked for, seconds from the first request to the last token, waits for the first tokens.

    `cpu`: seconds of CPU time that the process took for it.
    """

    tokens: int
    seconds: float
    firsts: tuple[float, ...]
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def first(self) -> float:
        return median(self.firsts)

    @property
    def worst(self) -> float:
        return max(self.firsts)


@dataclass(frozen=True, slots=True)
class Chat:
    """A server of chat completions. `body` is what each request has besides messages and length."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def asks(seed: int, count: int) -> list[Ask]:
    """So many requests, whose lengths are spread evenly: each round is the same work. No two prompts begin alike."""
    rng = random.Random(seed)
    prompts, answers = _spread(PROMPT, count, rng), _spread(ANSWER, count, rng)
    return [Ask(" ".join(rng.choices(WORDS, k=size)), tokens) for size, tokens in zip(prompts, answers, strict=True)]


def endless(seed: int) -> Iterator[Ask]:
    while True:
        yield from asks(seed, 8)
        seed += 1


def _spread(limits: tuple[int, int], count: int, rng: random.Random) -> list[int]:
    low, high = limits
    values = [round(low + (high - low) * (at + 0.5) / count) for at in range(count)]
    rng.shuffle(values)
    return values


def one_round(chat: Chat, wanted: Sequence[Ask], width: int) -> Seen:
    """All of `wanted`, `width` at a time. RuntimeError where an answer is an error or has another length. Blocks."""
    began = time.perf_counter()
    answers = asyncio.run(answered(chat, wanted, width))
    end = max(answer.arrivals[-1] for answer in answers)
    return Seen(sum(answer.tokens for answer in answers), end - began, tuple(answer.first for answer in answers))


def rates(chats: Sequence[Chat], width: int, seconds: float, seed: int) -> list[float]:
    """Tokens per second of each of `chats` while all of them generate, each for `width` clients. Blocks.

    The first fifth of the time does not count: that is when all prompts come at once.
    """
    return asyncio.run(_rates(chats, width, seconds, seed))


async def _rates(chats: Sequence[Chat], width: int, seconds: float, seed: int) -> list[float]:
    began = time.perf_counter()
    begin, end = began + seconds / 5, began + seconds
    all_answers = await asyncio.gather(
        *(answered(chat, endless(seed + 1000 * number), width, until=end) for number, chat in enumerate(chats))
    )
    return [sum(answer.within(begin, end) for answer in answers) / (end - begin) for answers in all_answers]


async def answered(chat: Chat, wanted: Iterable[Ask], width: int, until: float = float("inf")) -> list[Answer]:
    """Send `wanted`, `width` at a time; none after `until`, and those that run then are waited for."""
    waiting = iter(wanted)
    answers = []

    async def client(session: aiohttp.ClientSession) -> None:
        for ask in waiting:
            answers.append(await _answer(session, chat, ask))
            if time.perf_counter() >= until:
                return

    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(headers=chat.headers, timeout=timeout) as session:
        # The first error is the round's; asyncio.run cancels the others.
        await asyncio.gather(*(client(session) for _ in range(width)))
    return answers


async def _answer(session: aiohttp.ClientSession, chat: Chat, ask: Ask) -> Answer:
    messages = [{"role": "user", "content": ask.prompt}]
    body = {**chat.body, "messages": messages, "max_tokens": ask.tokens, "stream": True}
    sent, arrivals, tokens = time.perf_counter(), [], 0
    async with session.post(f"{chat.url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{chat.url} answered {response.status}: {(await response.text())[:300]}")
        async for event in _events(response):
            if "error" in event:
                raise RuntimeError(f"{chat.url} broke off: {event['error']}")
            if any(choice["delta"].get("content") for choice in event["choices"]):
                arrivals.append(time.perf_counter())
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if tokens != ask.tokens or not arrivals:
        raise RuntimeError(f"{chat.url} generated {tokens} tokens and not {ask.tokens}")
    return Answer(sent, tuple(arrivals), tokens)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def as_json(wanted: Sequence[Ask]) -> list[dict[str, Any]]:
    return [asdict(ask) for ask in wanted]
