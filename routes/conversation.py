"""What the service does to a conversation before the engine sees it: the personality, and the budget of tokens."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

import orjson

from manager.engines import Engine, UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import ContextLengthExceeded, InvalidRequest, UpstreamError
from routes.body import write_object
from routes.errors import from_engine
from routes.messages import RESULTS

Message = dict[str, Any]
# Of llama.cpp's lives whether their templates know tools.
_KNOWS_TOOLS: Final[WeakKeyDictionary[Engine, bool]] = WeakKeyDictionary()
SYSTEM_ROLES: Final = frozenset({"system", "developer"})
# What of a request decides how its messages become a prompt.
TEMPLATE_FIELDS: Final = (
    *("messages", "tools", "tool_choice", "response_format", "chat_template_kwargs"),
    *("reasoning_effort", "continue_final_message", "add_generation_prompt"),
)
# The engines' path that renders a chat and says how many tokens that makes, those of images too.
COUNT_PATH: Final = "/v1/chat/completions/input_tokens"
# How a request may limit its answer, and the order in which they count; -1 is no limit.
LIMITS: Final = ("n_predict", "max_completion_tokens", "max_tokens")
# Where a request sets a budget but no length of its answer, this part of the budget is kept for it.
ANSWER_SHARE: Final = 4
# A longer answer than this part of the budget costs no turn: its limit is lowered instead.
MOST_RESERVED: Final = 2


def with_personality(messages: list[Message], prompt: str) -> list[Message]:
    """The messages under a personality's system prompt; a system message of the request comes after it.

    Both become one message, because many chat templates know one system message only.
    """
    first = messages[0]
    if first["role"] not in SYSTEM_ROLES:
        return [{"role": "system", "content": prompt}, *messages]
    content = first["content"]
    merged: Any
    if isinstance(content, str):
        merged = f"{prompt}\n\n{content}"
    else:
        merged = [{"type": "text", "text": f"{prompt}\n\n"}, *content]
    return [{**first, "content": merged}, *messages[1:]]


async def fit_to_budget(engine: Engine, entry: ModelEntry, body: dict[str, Any], budget: int) -> None:
    """Drop the oldest turns of `body` until prompt and answer fit into `budget` tokens, and cap the answer.

    System messages and the last user message with all after it stay. Raises ContextLengthExceeded where they alone
    don't fit. The engine itself renders and counts.
    """
    model = entry.name
    budget = min(budget, await _window(engine, model))
    limit = _limit(entry, body)
    reserve = budget // ANSWER_SHARE if limit is None else min(limit, budget // MOST_RESERVED)
    kept, turns, rest = _split(body["messages"])

    async def count(dropped: int) -> int:
        messages = kept + [message for turn in turns[dropped:] for message in turn] + rest
        return await count_tokens(engine, model, {**body, "messages": messages})

    fewest, most = 0, len(turns)  # how many turns to drop; more of them never makes the prompt longer
    while fewest < most:
        middle = (fewest + most) // 2
        if await count(middle) + reserve <= budget:
            most = middle
        else:
            fewest = middle + 1
    prompt = await count(fewest)
    if prompt >= budget:
        raise ContextLengthExceeded(
            f"The shortest form of this conversation has {prompt} tokens; the budget for prompt and answer is "
            f"{budget}.",
            param="messages",
        )
    if fewest:
        body["messages"] = kept + [message for turn in turns[fewest:] for message in turn] + rest
    for name in LIMITS:
        body.pop(name, None)
    body["max_tokens"] = budget - prompt if limit is None else min(limit, budget - prompt)


def _limit(entry: ModelEntry, body: dict[str, Any]) -> int | None:
    """How long the answer may be, by the request or else by the model's default; None where neither says."""
    asked = next((body[name] for name in LIMITS if body.get(name) is not None), -1)
    if asked >= 0:
        return int(asked)
    default = entry.params.n_predict
    return default if default is not None and default > 0 else None


def _split(messages: list[Message]) -> tuple[list[Message], list[list[Message]], list[Message]]:
    """System messages, the turns that may be dropped (oldest first), and what must stay at the end."""
    kept = [message for message in messages if message["role"] in SYSTEM_ROLES]
    others = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    users = [index for index, message in enumerate(others) if message["role"] == "user"]
    last = users[-1] if users else len(others) - 1
    while not users and last > 0 and others[last]["role"] in RESULTS:
        last -= 1  # results stay with their calls
    turns: list[list[Message]] = []
    for index, message in enumerate(others[:last]):
        if index == 0 or message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return kept, turns, others[max(last, 0) :]


async def check_template_knows_tools(engine: Engine, model: str) -> None:
    """llama.cpp leaves tools out without a word where the template has no place for them.

    Raises InvalidRequest. A version of it that does not tell judges by itself.
    """
    knows = _KNOWS_TOOLS.get(engine)
    if knows is None:
        props = await _ask(engine, model, UpstreamRequest("GET", "/props"))
        knows = _KNOWS_TOOLS[engine] = props.get("chat_template_caps", {}).get("supports_tool_calls") is not False
    if not knows:
        raise InvalidRequest(
            f"The template of '{model}' knows no tools: its entry can name one that does ('template').", param="tools"
        )


async def _window(engine: Engine, model: str) -> int:
    props = await _ask(engine, model, UpstreamRequest("GET", "/props"))
    return int(props["default_generation_settings"]["n_ctx"])


async def count_tokens(engine: Engine, model: str, body: dict[str, Any]) -> int:
    """How many tokens the prompt has that a chat with this body makes. Raises HerdError for what the engine refuses."""
    asked: dict[str, Any] = {name: body[name] for name in TEMPLATE_FIELDS if name in body}
    answer = await _ask(engine, model, UpstreamRequest("POST", COUNT_PATH, write_object(asked)))
    return int(answer["input_tokens"])


async def _ask(engine: Engine, model: str, request: UpstreamRequest) -> dict[str, Any]:
    async with engine.open(request) as answer:
        body = await answer.read()
        if answer.status >= 400:
            raise from_engine(answer.status, body, model, request.path)
    try:
        parsed: dict[str, Any] = orjson.loads(body)
    except ValueError as error:
        raise UpstreamError(f"The engine of '{model}' sent no valid JSON.") from error
    return parsed
