"""What entries and profiles do to the fields of requests, on the way to the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from manager.variants_file import FOR_CLIENTS, ONLY_STRIPPED, RequestFields
from routes.body import FIELDS, check_fields
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said
from tests.routes.stage import CHAT, Fake, Stage

REQUEST = {"set": {"cache_prompt": False}, "default": {"temperature": 0.5}, "strip": ["seed"]}
PROFILES: dict[str, Any] = {
    "bold": {"request": {"set": {"temperature": 1.5}}},
    "verse": {"personality": "poet", "request": {"strip": ["top_k"]}},
    "short": {"request": {"set": {"ctx": 64}, "default": {"max_tokens": 7}}},
}


@pytest.fixture
def shaped(stage: Stage) -> Fake:
    """The fake of "alpha", alias "a", whose entry has filters and profiles."""
    params = {"embedding": True}
    poet = {"poet": "Rhyme."}
    return stage.model("alpha", aliases=["a"], params=params, personalities=poet, request=REQUEST, profiles=PROFILES)


@pytest.fixture
async def served(shaped: Fake, start_herd: StartHerd) -> Herd:
    return await start_herd()


async def sent(herd: Herd, fake: Fake, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The fields that reached the engine, without what the request says."""
    answer = await herd.post(path, body)
    assert answer.status == 200, answer.body
    seen: dict[str, Any] = fake.requests(path)[-1]["body"]
    return {name: value for name, value in seen.items() if name not in {"model", "messages", "prompt", "input"}}


async def test_an_entry_changes_the_fields_of_every_inference_request(served: Herd, shaped: Fake) -> None:
    fields = {"seed": 1, "cache_prompt": True}
    expected = {"cache_prompt": False, "temperature": 0.5}
    assert await sent(served, shaped, CHAT, {**said("hi"), **fields}) == expected
    assert await sent(served, shaped, "/apply-template", {**said("hi"), **fields}) == expected
    assert await sent(served, shaped, "/v1/completions", {"prompt": "hi", **fields}) == expected
    assert await sent(served, shaped, "/v1/embeddings", {"input": "hi", **fields}) == expected
    assert await sent(served, shaped, CHAT, said("hi", temperature=0.1)) == {**expected, "temperature": 0.1}
    assert await sent(served, shaped, "/tokenize", {"content": "hi", "seed": 1}) == {"content": "hi", "seed": 1}


async def test_the_rest_of_a_request_stays_as_it_came(served: Herd, shaped: Fake) -> None:
    body = said("hi", model="a", top_k=3, user="me")
    await served.post(CHAT, body)
    assert shaped.requests()[-1]["body"] == {**body, "cache_prompt": False, "temperature": 0.5}


async def test_a_request_that_a_filter_does_not_concern_goes_on_in_its_own_bytes(
    stage: Stage, start_herd: StartHerd
) -> None:
    fake = stage.model("alpha", request={"strip": ["seed"], "default": {"top_k": 5}})
    herd = await start_herd()
    raw = json.dumps(said("hi", top_k=3), indent=8).encode()
    assert (await herd.ask("POST", CHAT, raw=raw)).status == 200
    assert fake.requests()[-1]["headers"]["content-length"] == str(len(raw))


@pytest.mark.parametrize("name", ["alpha", "a"])
async def test_a_profile_is_a_variant_of_the_loaded_model(served: Herd, shaped: Fake, name: str) -> None:
    plain = {"cache_prompt": False, "temperature": 0.5}
    assert await sent(served, shaped, CHAT, said("hi", model=name)) == plain
    bold = await sent(served, shaped, CHAT, said("hi", model=f"{name}:bold", temperature=0.1))
    assert bold == {**plain, "temperature": 1.5}
    completed = await sent(served, shaped, "/v1/completions", {"prompt": "hi", "model": f"{name}:bold"})
    assert completed == {**plain, "temperature": 1.5}
    assert len(shaped.starts()) == 1


async def test_the_personality_of_a_profile_counts_unless_the_request_names_one(
    stage: Stage, start_herd: StartHerd
) -> None:
    stage.model("alpha", personalities={"poet": "Rhyme.", "pirate": "Arr."}, profiles=PROFILES).knobs()
    herd = await start_herd()
    assert (await herd.chat("hi", model="alpha:verse")).echo[0]["content"] == "Rhyme."
    assert (await herd.chat("hi", model="alpha:verse", personality="pirate")).echo[0]["content"] == "Arr."
    answer = await herd.post("/v1/completions", {"prompt": "hi", "model": "alpha:verse"})
    assert (answer.status, answer.error["param"]) == (400, "model")


async def test_a_field_that_is_stripped_is_not_checked_and_one_that_stays_is(served: Herd) -> None:
    for path, body in ((CHAT, said("hi")), ("/v1/completions", {"prompt": "hi"})):
        assert (await served.post(path, {**body, "seed": "x"})).status == 200
        answer = await served.post(path, {**body, "top_k": "x"})
        assert (answer.status, answer.error["param"]) == (400, "top_k")


async def test_a_budget_that_a_profile_sets_is_for_its_chats_alone(served: Herd, shaped: Fake) -> None:
    long = [{"role": "user", "content": "word " * 60}, {"role": "assistant", "content": "ok"}]
    chat = {"messages": [*long, *said("hi")["messages"]], "model": "alpha:short"}
    assert await sent(served, shaped, CHAT, chat) == {"cache_prompt": False, "temperature": 0.5, "max_tokens": 7}
    assert shaped.requests()[-1]["body"]["messages"] == said("hi")["messages"]
    completed = await sent(served, shaped, "/v1/completions", {"prompt": "hi", "model": "alpha:short"})
    assert completed == {"cache_prompt": False, "temperature": 0.5, "max_tokens": 7}
    answer = await served.post("/v1/completions", {"prompt": "hi", "model": "alpha:short", "ctx": 5})
    assert (answer.status, answer.error["param"]) == (400, "ctx")


async def test_a_profile_is_for_who_may_use_its_model(
    stage: Stage, shaped: Fake, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    stage.model("beta", profiles={"bold": {}}).knobs()
    shaped.knobs()
    limited, odd = make_key("limited", models=["beta"]), make_key("odd", models=["beta:bold"])
    herd = await start_herd()
    herd.key = limited
    answer = await herd.chat("hi", model="alpha:bold")
    assert (answer.status, answer.error["code"]) == (403, "model_not_allowed")
    assert (await herd.chat("hi", model="beta:bold")).status == 200
    assert [model["id"] for model in (await herd.get("/v1/models")).json["data"]] == ["beta", "beta:bold"]
    assert (await herd.get("/v1/models/alpha:bold")).status == 403
    assert (await herd.post(CHAT, said("hi", model="beta:bold"), key=odd)).status == 403


async def test_changed_filters_and_profiles_count_at_once(stage: Stage, served: Herd, shaped: Fake) -> None:
    assert (await sent(served, shaped, CHAT, said("hi")))["temperature"] == 0.5
    entries = json.loads(stage.models_file.read_text())
    entries["alpha"]["request"] = {"default": {"temperature": 0.9}}
    entries["alpha"]["profiles"] = {"new": {"request": {"set": {"temperature": 2}}}}
    stage.models_file.write_text(json.dumps(entries))
    assert (await served.post("/admin/reload")).status == 200
    assert await sent(served, shaped, CHAT, said("hi")) == {"temperature": 0.9}
    assert await sent(served, shaped, CHAT, said("hi", model="alpha:new")) == {"temperature": 2}
    assert (await served.chat("hi", model="alpha:bold")).status == 404
    assert len(shaped.starts()) == 1


async def test_a_value_that_is_only_the_same_to_python_counts_when_it_is_read_again(
    stage: Stage, start_herd: StartHerd
) -> None:
    fake = stage.model("alpha", request={"set": {"chat_template_kwargs": {"enable_thinking": 0}}})
    herd = await start_herd()
    entries = json.loads(stage.models_file.read_text())
    entries["alpha"]["request"]["set"]["chat_template_kwargs"]["enable_thinking"] = False
    stage.models_file.write_text(json.dumps(entries))
    assert (await herd.post("/admin/reload")).status == 200
    assert (await sent(herd, fake, CHAT, said("hi")))["chat_template_kwargs"]["enable_thinking"] is False


async def test_admins_see_filters_and_all_that_a_profile_does(served: Herd) -> None:
    shown = (await served.get("/admin/models/alpha")).json
    assert shown["request"] == REQUEST
    assert shown["profiles"]["verse"] == {
        "description": None,
        "personality": "poet",
        "request": {**REQUEST, "strip": ["seed", "top_k"]},
        "listed": True,
    }
    assert list(shown["profiles"]) == list(PROFILES)


NUMBERS = (-2, -1, 0, 1, 2, 21, 200, 2**32, 0.5, 1.5, -2.5)
PROBES: tuple[Any, ...] = (*NUMBERS, True, "x", "none", [], ["x"], [1], {}, {"a": 1})


@pytest.mark.parametrize("name", sorted(RequestFields.model_fields))
def test_a_value_that_an_entry_may_give_is_one_that_a_request_may_have(name: str) -> None:
    accepted = 0
    for value in PROBES:
        try:
            RequestFields.model_validate({name: value})
        except ValidationError:
            continue
        accepted += 1
        check_fields({name: value})
    assert 0 < accepted < len(PROBES)


def test_entries_know_every_field_that_requests_are_checked_for() -> None:
    of_texts = {"add_special", "parse_special", "with_pieces"}  # of /tokenize, of which entries change nothing
    left = FIELDS.keys() - RequestFields.model_fields.keys() - FOR_CLIENTS - ONLY_STRIPPED - of_texts
    assert left == set(), "give them a type in RequestFields, or leave them to clients"
