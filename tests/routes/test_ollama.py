"""Ollama's routes, over fakes of llama-server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from manager.errors import ShuttingDown
from routes.ollama import chats, embedding
from routes.ollama.listing import NEVER, VERSION
from routes.ollama.shapes import (
    ChatAnswer,
    EmbedAnswer,
    EmbeddingsAnswer,
    GenerateAnswer,
    ModelList,
    RunningList,
    ShownModel,
)
from routes.parsing import LARGE, parse
from tests.gguf_files import CHAT_TEMPLATE, write_tiny_gguf
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Answer, Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage

MakeKey = Callable[..., str]
TOOLS = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}think{% endif %}"


def lines_of(answer: Answer) -> list[dict[str, Any]]:
    """The lines of a stream that went well as far as its head."""
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert answer.body.endswith(b"\n")
    return [json.loads(line) for line in answer.body.splitlines()]


@pytest.fixture
async def real_file(stage: Stage, fake: Fake, start_herd: StartHerd) -> Herd:
    """A service whose model "alpha" has a whole header."""
    outside(lambda: write_tiny_gguf(stage.data / "models" / "alpha.gguf", context=2048))
    return await start_herd()


async def test_version_is_one_of_ollamas(herd: Herd) -> None:
    assert (await herd.get("/api/version")).json == {"version": VERSION}


async def test_tags_tell_what_the_headers_of_files_say(real_file: Herd, stage: Stage) -> None:
    answer = (await real_file.get("/api/tags")).json
    ModelList.model_validate(answer)
    (model,) = answer["models"]
    file = stage.data / "models" / "alpha.gguf"
    assert (model["name"], model["model"], model["size"]) == ("alpha", "alpha", file.stat().st_size)
    assert datetime.fromisoformat(model["modified_at"]).timestamp() == pytest.approx(file.stat().st_mtime)
    assert model["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "110.91K",
        "quantization_level": "F16",
    }
    assert len(bytes.fromhex(model["digest"])) == 32
    assert (await real_file.get("/api/tags")).json == answer


async def test_tags_have_no_details_where_a_header_has_none(herd: Herd) -> None:
    (model,) = (await herd.get("/api/tags")).json["models"]
    assert model["details"] == {**dict.fromkeys(model["details"], ""), "format": "gguf", "families": []}


async def test_tags_have_the_profiles_that_are_listed(stage: Stage, start_herd: StartHerd) -> None:
    hidden = {"listed": False}
    fake = stage.model("alpha", profiles={"exact": {"request": {"set": {"temperature": 0}}}, "secret": hidden})
    herd = await start_herd()
    models = (await herd.get("/api/tags")).json["models"]
    assert [(one["model"], one["details"]["parent_model"]) for one in models] == [
        ("alpha", ""),
        ("alpha:exact", "alpha"),
    ]
    answer = await herd.post("/api/chat", said("hi", model="alpha:exact", stream=False))
    assert answer.json["model"] == "alpha:exact"
    assert fake.requests()[0]["body"]["temperature"] == 0


async def test_tags_and_ps_are_of_the_models_that_the_key_is_for(
    stage: Stage, fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    stage.model("beta", aliases=["b"])
    stage.model("gone", params={"model": "missing.gguf"})
    key, all_of_them = make_key("limited", models=["b"]), make_key("all")
    herd = await start_herd()
    assert (await herd.get("/api/tags")).status == 401
    assert [one["name"] for one in (await herd.get("/api/tags", key=key)).json["models"]] == ["beta"]
    assert [one["name"] for one in (await herd.get("/api/tags", key=all_of_them)).json["models"]] == ["alpha", "beta"]
    for model in ("alpha", "beta"):
        assert (await herd.post("/api/generate", {"model": model}, key=all_of_them)).status == 200
    running = (await herd.get("/api/ps", key=key)).json
    RunningList.model_validate(running)
    assert [one["name"] for one in running["models"]] == ["beta"]
    for path in ("chat", "generate", "embed", "embeddings", "show"):
        refused = await herd.post(f"/api/{path}", {"model": "alpha", "input": "x"}, key=key)
        assert (refused.status, list(refused.json)) == (403, ["error"]), path
        assert "b" in refused.error


async def test_ps_tells_what_is_loaded_and_until_when(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("alpha", ctx_size=1024).knobs()
    stage.model("beta", ttl=60).knobs()
    herd = await start_herd()
    assert (await herd.get("/api/ps")).json == {"models": []}
    for model in ("alpha", "beta"):
        await herd.post("/api/generate", {"model": model})
    running = {one["name"]: one for one in (await herd.get("/api/ps")).json["models"]}
    assert (running["alpha"]["expires_at"], running["alpha"]["context_length"]) == (NEVER, 1024)
    left = datetime.fromisoformat(running["beta"]["expires_at"]).timestamp() - time.time()
    assert 30 < left <= 60
    assert running["beta"]["size_vram"] == 0


async def test_show_tells_what_a_model_is_like(stage: Stage, start_herd: StartHerd) -> None:
    outside(lambda: stage.model("alpha", params={"temperature": 0.5, "ctxSize": 512}))
    outside(lambda: write_tiny_gguf(stage.data / "models" / "alpha.gguf", context=2048))
    herd = await start_herd()
    answer = await herd.post("/api/show", {"model": "alpha:latest"})
    ShownModel.model_validate(answer.json)
    assert answer.json["capabilities"] == ["completion"]
    assert answer.json["template"] == CHAT_TEMPLATE
    assert answer.json["modelfile"] == "FROM alpha.gguf\nPARAMETER temperature 0.5\nPARAMETER num_ctx 512\n"
    assert answer.json["parameters"].split() == ["temperature", "0.5", "num_ctx", "512"]
    info = answer.json["model_info"]
    assert (info["general.architecture"], info["llama.context_length"]) == ("llama", 2048)
    assert "tokenizer.chat_template" not in info
    assert (await herd.post("/api/show", {"name": "alpha"})).json == answer.json
    assert str(stage.data).encode() not in answer.body


async def test_show_knows_abilities_by_the_entry(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("vectors", params={"embedding": True})
    stage.model("ranks", params={"reranking": True})
    stage.model("base", params={"instruct": False})
    stage.model("builtin", template="llama2")
    for model, more in (("able", {}), ("plain", {"jinja": False})):
        stage.model(model, params=more)
        file = stage.data / "models" / f"{model}.gguf"
        outside(partial(write_tiny_gguf, file, chat_template=TOOLS + CHAT_TEMPLATE))
    herd = await start_herd()
    expected = {
        "vectors": ["embedding"],
        "ranks": [],
        "base": ["completion"],
        "builtin": ["completion"],
        "able": ["completion", "tools", "thinking"],
        "plain": ["completion", "thinking"],
    }
    for model, able in expected.items():
        assert (await herd.post("/api/show", {"model": model})).json["capabilities"] == able, model


@pytest.mark.parametrize(("body", "status"), [({}, 400), ({"model": "nope"}, 404), ({"model": 3}, 400)])
async def test_show_refuses_what_it_does_not_know(herd: Herd, body: dict[str, Any], status: int) -> None:
    answer = await herd.post("/api/show", body)
    assert (answer.status, type(answer.error)) == (status, str)


async def test_chat_streams_lines_where_nothing_else_is_asked(herd: Herd, fake: Fake) -> None:
    found = lines_of(await herd.post("/api/chat", said("one two three", model="alpha:latest")))
    for line in found:
        ChatAnswer.model_validate(line)
    assert [line["message"]["content"] for line in found] == ["one", " two", " three", ""]
    assert {line["model"] for line in found} == {"alpha:latest"}
    assert (found[-1]["done_reason"], found[-1]["prompt_eval_count"], found[-1]["eval_count"]) == ("stop", 5, 3)
    (request,) = fake.requests()
    assert request["body"]["model"] == "alpha"


async def test_chat_answers_whole_where_no_stream_is_wanted(herd: Herd) -> None:
    answer = await herd.post("/api/chat", said("one two three", stream=False, options={"num_predict": 2}))
    ChatAnswer.model_validate(answer.json)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert (answer.json["message"]["content"], answer.json["done_reason"]) == ("one two", "length")
    assert (answer.json["model"], answer.json["eval_count"]) == ("alpha", 2)


async def test_a_name_that_is_latest_is_a_variant_where_there_is_one(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("alpha", personalities={"latest": "You are new."}).knobs()
    fake = Fake(stage.fakes / "alpha")
    herd = await start_herd()
    await herd.post("/api/chat", said("hi", model="alpha:latest", stream=False))
    assert fake.requests()[0]["body"]["messages"][0] == {"role": "system", "content": "You are new."}


@pytest.mark.parametrize("path", ["chat", "generate"])
async def test_a_request_without_a_prompt_loads_the_model(herd: Herd, fake: Fake, path: str) -> None:
    answer = await herd.post(f"/api/{path}", {"model": "alpha", "keep_alive": "10m"})
    (ChatAnswer if path == "chat" else GenerateAnswer).model_validate(answer.json)
    assert (answer.json["done"], answer.json["done_reason"]) == (True, "load")
    assert (herd.state("alpha"), herd.service.pool.active) == ("ready", None)
    assert herd.in_flight == 0
    assert fake.requests() == []


async def test_a_load_that_fails_is_told(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 3})
    answer = await herd.post("/api/generate", {"model": "alpha"})
    assert (answer.status, type(answer.error)) == (503, str)
    assert herd.service.gate.in_flight == 0


async def test_only_administrators_unload_with_keep_alive(
    stage: Stage, fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    user, admin = make_key("user", "inference"), make_key("admin")
    herd = await start_herd()
    await herd.post("/api/generate", {"model": "alpha"}, key=user)
    refused = await herd.post("/api/generate", {"model": "alpha", "keep_alive": 0}, key=user)
    assert (refused.status, herd.state("alpha")) == (403, "ready")
    done = await herd.post("/api/chat", {"model": "alpha", "messages": [], "keep_alive": "0s"}, key=admin)
    assert (done.json["done_reason"], herd.state("alpha")) == ("unload", "stopped")
    log = stage.data / "audit.log"
    await until(lambda: log.exists() and b"/api/chat" in log.read_bytes())
    lines = [json.loads(line) for line in outside(log.read_text).splitlines() if "/api/" in line]
    assert [(line["action"], line["target"], line["status"]) for line in lines] == [
        ("POST /api/generate", "alpha", 403),
        ("POST /api/chat", "alpha", 200),
    ]


async def test_an_unload_that_fails_is_audited_as_what_it_was(
    stage: Stage, herd: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unload(name: str) -> None:
        raise next(errors)

    errors = iter([ShuttingDown("full"), RuntimeError("a mistake")])
    monkeypatch.setattr(herd.service.pool, "unload", unload)
    found = [await herd.post("/api/generate", {"model": "alpha", "keep_alive": 0}) for _ in range(2)]
    log = stage.data / "audit.log"
    await until(lambda: log.exists() and log.read_bytes().count(b"/api/generate") == 2)
    lines = [json.loads(line) for line in outside(log.read_text).splitlines()]
    assert [line["status"] for line in lines] == [answer.status for answer in found] == [ShuttingDown.status, 500]


async def test_a_load_without_a_prompt_is_a_request_as_others_are(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    asking = asyncio.create_task(
        herd.ask("POST", "/api/generate", {"model": "alpha"}, headers={"X-Request-ID": "mine"})
    )
    await until(lambda: herd.state("alpha") == "starting")
    (running,) = (await herd.get("/admin/requests")).json["requests"]
    assert (running["id"], running["model"], running["route"]) == ("mine", "alpha", "/api/generate")
    assert (await herd.ask("DELETE", "/admin/requests/mine")).json == {"cancelled": 1}
    cancelled = await asking
    assert (cancelled.status, list(cancelled.json)) == (409, ["error"])
    assert (await herd.get("/admin/requests")).json == {"requests": []}
    fake.open_gate()
    assert (await herd.post("/api/generate", {"model": "alpha"})).status == 200
    metrics = (await herd.get("/metrics")).body.decode()
    for status in ("ok", "cancelled"):
        assert f'llamaherd_requests_total{{model="alpha",outcome="{status}"}} 1.0' in metrics


async def test_a_whole_answer_does_not_repeat_the_last_message_where_it_goes_on_with_that(herd: Herd) -> None:
    last = {"role": "assistant", "content": "one "}
    body = said("one two", stream=False)
    body["messages"].append(last)
    assert (await herd.post("/api/chat", body)).json["message"]["content"] == "two"


@pytest.mark.parametrize(("size", "threads"), [(10, {"main"}), (LARGE, {"another"})])
async def test_a_large_body_is_read_in_a_thread(
    stage: Stage, herd: Herd, monkeypatch: pytest.MonkeyPatch, size: int, threads: set[str]
) -> None:
    found = set()

    def parsed(*arguments: Any) -> Any:
        found.add("main" if threading.current_thread() is threading.main_thread() else "another")
        return parse(*arguments)

    for module in (chats, embedding):
        monkeypatch.setattr(module, "parse", parsed)
    for path in ("chat", "generate", "embed", "embeddings"):
        await herd.post(f"/api/{path}", {"unknown": "x" * size, "input": ""})
        assert (path, found) == (path, threads)
        found.clear()


async def test_an_error_within_a_stream_is_its_last_line(herd: Herd, fake: Fake) -> None:
    for fault in ("error_stream_after", "cut_stream_after"):
        fake.knobs(**{fault: 2})
        await herd.service.pool.unload("alpha")
        found = lines_of(await herd.post("/api/chat", said("one two three")))
        assert [line["message"]["content"] for line in found[:-1]] == ["one", " two"]
        assert list(found[-1]) == ["error"]
        assert isinstance(found[-1]["error"], str)


async def test_a_quiet_stream_is_kept_alive_by_lines_that_say_nothing(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    fake.close_gate()
    herd = await start_herd(limits={"stream_heartbeat": 0.02})
    async with herd.open("POST", "/api/generate", {"prompt": "one two"}) as response:
        async with asyncio.timeout(5):
            first = json.loads(await response.content.readline())
        assert herd.state("alpha") == "starting"
        GenerateAnswer.model_validate(first)
        assert (first["response"], first["done"]) == ("", False)
        fake.open_gate()
        rest = [json.loads(line) for line in (await response.content.read()).splitlines()]
    assert "".join(line["response"] for line in rest) == "one two"
    assert rest[-1]["done"]
    assert rest[-1]["load_duration"] > 0


async def test_a_load_that_fails_under_a_stream_is_its_last_line(fake: Fake, start_herd: StartHerd) -> None:
    fake.close_gate(exit_during_load={"code": 1, "after": 0.2})
    herd = await start_herd(limits={"stream_heartbeat": 0.02})
    found = lines_of(await herd.post("/api/chat", said("hi")))
    assert [line["done"] for line in found[:-1]] == [False] * (len(found) - 1)
    assert list(found[-1]) == ["error"]


async def test_generate_is_a_chat_under_its_system_message(herd: Herd, fake: Fake) -> None:
    answer = await herd.post("/api/generate", {"prompt": "one two", "system": "Be kind.", "stream": False})
    GenerateAnswer.model_validate(answer.json)
    assert (answer.json["response"], answer.json["done_reason"]) == ("one two", "stop")
    (request,) = fake.requests()
    assert [message["role"] for message in request["body"]["messages"]] == ["system", "user"]


async def test_a_raw_prompt_and_one_for_a_base_model_get_no_template(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("base", params={"instruct": False}, request={"set": {"seed": 7}})
    herd = await start_herd()
    found = lines_of(await herd.post("/api/generate", {"prompt": "one two", "raw": True}))
    assert "".join(line["response"] for line in found) == "one two"
    answer = await herd.post("/api/generate", {"prompt": "one two", "stream": False})
    assert (answer.json["response"], answer.json["eval_count"]) == ("one two", 2)
    assert fake.requests() == []
    bodies = [request["body"] for request in fake.requests("/v1/completions")]
    assert [(body["prompt"], body["seed"]) for body in bodies] == [("one two", 7)] * 2
    assert (await herd.post("/api/generate", {"prompt": "x", "system": "y"})).status == 400


async def test_a_suffix_asks_the_engine_to_fill_the_gap(herd: Herd, fake: Fake) -> None:
    answer = await herd.post("/api/generate", {"prompt": "def f(", "suffix": "return 1"})
    assert answer.status == 400  # the fake knows no infill
    (request,) = fake.requests("/infill")
    assert (request["body"]["input_prefix"], request["body"]["input_suffix"]) == ("def f(", "return 1")


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("generate", {"prompt": "x", "template": "y"}, "'template'"),
        ("generate", {"prompt": "x", "context": [1]}, "'context'"),
        ("generate", {"prompt": "x", "model": "alpha:pirate", "raw": True}, "'model'"),
        ("generate", {"prompt": "x", "images": ["iVBORw0KGgoAAAANSUhEUgAA"]}, "'images[0]'"),
        ("chat", {"messages": [{"role": "user", "images": ["iVBORw0KGgoAAAANSUhEUgAA"]}]}, "'messages[0].images[0]'"),
        ("chat", {"messages": [{"role": "user", "content": "x"}], "tools": [3]}, "'tools[0]'"),
        ("chat", {"messages": [{"role": "user", "content": "x"}], "options": {"top_p": 2}}, "'options.top_p'"),
        ("chat", {"messages": "x"}, "'messages'"),
        ("embed", {}, "'input'"),
        ("embed", {"input": [1]}, "'input"),
        ("embeddings", {"prompt": 1}, "'prompt'"),
    ],
)
async def test_bad_input_is_refused_by_its_own_name(herd: Herd, path: str, fields: dict[str, Any], named: str) -> None:
    answer = await herd.post(f"/api/{path}", fields)
    assert (answer.status, list(answer.json)) == (400, ["error"])
    assert named in answer.error
    assert herd.state("alpha") == "stopped"


async def test_embed_gives_a_vector_for_each_input(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("vectors", params={"embedding": True})
    herd = await start_herd()
    answer = await herd.post("/api/embed", {"model": "vectors:latest", "input": ["a", "b c d"], "truncate": True})
    EmbedAnswer.model_validate(answer.json)
    assert (answer.json["model"], answer.json["embeddings"]) == ("vectors:latest", [[1.0], [3.0]])
    assert answer.json["prompt_eval_count"] == 4
    assert (await herd.post("/api/embed", {"input": "a b", "dimensions": 1})).json["embeddings"] == [[1.0]]
    assert "dimensions" in (await herd.post("/api/embed", {"input": "a b", "dimensions": 2})).error
    old = await herd.post("/api/embeddings", {"prompt": "a b"})
    EmbeddingsAnswer.model_validate(old.json)
    assert old.json == {"embedding": [2.0]}
    bodies = [request["body"] for request in fake.requests("/v1/embeddings")]
    assert bodies[0]["input"] == ["a", "b c d"]
    assert not any("dimensions" in body for body in bodies)


async def test_embed_without_input_loads_the_model(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("vectors", params={"embedding": True})
    herd = await start_herd()
    assert (await herd.post("/api/embed", {"input": []})).json["embeddings"] == []
    assert (await herd.post("/api/embeddings", {})).json == {"embedding": []}
    assert (herd.state("vectors"), fake.requests("/v1/embeddings")) == ("ready", [])


async def test_a_model_that_makes_no_embeddings_is_not_loaded_for_them(herd: Herd) -> None:
    for path, body in (("embed", {"input": "x"}), ("embeddings", {"prompt": "x"})):
        answer = await herd.post(f"/api/{path}", body)
        assert (answer.status, "alpha" in answer.error) == (400, True)
    assert herd.state("alpha") == "stopped"


async def test_a_budget_drops_the_oldest_turns(herd: Herd, fake: Fake) -> None:
    turns = [{"role": role, "content": "word " * 40} for role in ("user", "assistant")]
    body = {"messages": [*turns, {"role": "user", "content": "last"}], "options": {"num_ctx": 60}, "stream": False}
    assert (await herd.post("/api/chat", body)).json["message"]["content"] == "last"
    assert [message["content"] for message in fake.requests(CHAT)[0]["body"]["messages"]] == ["last"]
