"""Which models there are, loading and unloading them, and which one is active."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage


@pytest.fixture
def beta(stage: Stage, fake: Fake) -> Fake:
    """A second model, after "alpha"."""
    return stage.model("beta", personalities={"poet": "Rhyme."}, aliases=["b"])


async def load(herd: Herd, model: str, **fields: Any) -> None:
    answer = await herd.post("/loadModel", {"model": model, **fields})
    assert answer.status == 200, answer.body


async def unload(herd: Herd, query: str = "") -> Any:
    answer = await herd.get(f"/unloadModel{query}")
    assert answer.status == 200, answer.body
    return answer.json


async def test_models_is_an_array_of_what_is_loaded_now(beta: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd()
    assert (await herd.get("/models")).json == []
    await load(herd, "beta")
    assert (await herd.get("/models")).json == ["beta"]
    await load(herd, "alpha")
    assert sorted((await herd.get("/models")).json) == ["alpha", "beta"]
    await unload(herd, "?model=beta")
    assert (await herd.get("/models")).json == ["alpha"]


async def test_v1_models_lists_every_model_in_its_openai_form(beta: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd()
    before = int(time.time())
    answer = await herd.get("/v1/models")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["object"] == "list"
    alpha, second = answer.json["data"]
    assert isinstance(alpha.pop("created"), int)
    assert alpha == {
        "id": "alpha",
        "object": "model",
        "owned_by": "local",
        "root": "alpha.gguf",
        "backend": "gguf",
        "state": "stopped",
        "aliases": [],
        "personalities": ["pirate"],
        "profiles": [],
        "context_length": 4096,
        "input_modalities": ["text"],
        "tasks": ["chat", "completion"],
    }
    assert before - 60 <= second["created"] <= before + 60
    assert (second["id"], second["aliases"], second["personalities"]) == ("beta", ["b"], ["poet"])


async def test_v1_models_has_the_description_of_a_model_that_has_one(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    stage.model("told", description="Small and quick.")
    herd = await start_herd()
    assert (await herd.get("/v1/models/told")).json["description"] == "Small and quick."
    assert "description" not in (await herd.get("/v1/models/alpha")).json


async def test_v1_models_tells_the_state_of_each(beta: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd()
    await load(herd, "beta")
    states = {model["id"]: model["state"] for model in (await herd.get("/v1/models")).json["data"]}
    assert states == {"alpha": "stopped", "beta": "ready"}


@pytest.mark.parametrize("name", ["org/model-7b", "qwen:0.5b", "a b", "ümlaut", "org/sub/model:tag", "50%"])
async def test_v1_models_id_finds_names_of_any_form(stage: Stage, start_herd: StartHerd, name: str) -> None:
    stage.model(name, file="file")
    herd = await start_herd()
    listed = (await herd.get("/v1/models")).json["data"][0]
    escaped = name.replace("%", "%25").replace(" ", "%20")
    answer = await herd.get(f"/v1/models/{escaped}")
    assert (answer.status, answer.json) == (200, listed)
    assert listed["id"] == name


async def test_v1_models_id_finds_a_slash_that_is_escaped(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("org/model", file="file")
    herd = await start_herd()
    url = herd.server.make_url("/").with_path("/v1/models/org%2Fmodel", encoded=True)
    async with herd.session.get(url) as response:
        assert (await response.json())["id"] == "org/model"


async def test_v1_models_id_finds_aliases_and_personalities(beta: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd()
    for name in ("b", "beta:poet", "b:poet"):
        assert (await herd.get(f"/v1/models/{name}")).json["id"] == "beta"


async def test_v1_models_lists_profiles_behind_their_model(stage: Stage, start_herd: StartHerd) -> None:
    profiles = {"bold": {"description": "Bolder."}, "hidden": {"listed": False}, "calm": {"personality": "poet"}}
    stage.model(
        "beta", description="Plain.", aliases=["b"], personalities={"poet": "Rhyme."}, profiles=profiles
    ).knobs()
    herd = await start_herd()
    await load(herd, "beta")
    model, bold, calm = (await herd.get("/v1/models")).json["data"]
    assert (model["id"], model["profiles"], model["description"]) == ("beta", ["bold", "hidden", "calm"], "Plain.")
    assert "parent" not in model
    assert bold == {
        **model,
        "id": "beta:bold",
        "parent": "beta",
        "aliases": ["b:bold"],
        "profiles": [],
        "description": "Bolder.",
    }
    assert (calm["id"], calm["state"], "description" in calm) == ("beta:calm", "ready", False)
    assert (await herd.get("/v1/models/beta:bold")).json == (await herd.get("/v1/models/b:bold")).json == bold
    assert (await herd.get("/v1/models/beta:hidden")).json["id"] == "beta:hidden"
    answer = await herd.get("/v1/models/beta:bolt")
    assert (answer.status, answer.error["message"]) == (
        404,
        "The model 'beta' has no profile or personality 'bolt'; did you mean beta:bold?",
    )


async def test_load_of_a_profile_makes_its_personality_the_one_of_the_load(stage: Stage, start_herd: StartHerd) -> None:
    profiles = {"verse": {"personality": "poet"}, "bold": {}}
    stage.model("beta", personalities={"poet": "Rhyme."}, profiles=profiles).knobs()
    herd = await start_herd()
    answer = await herd.post("/loadModel", {"model": "beta:verse"})
    assert (answer.json["model"], answer.json["personality"]) == ("beta", "poet")
    assert (await herd.chat("hi")).echo[0] == {"role": "system", "content": "Rhyme."}
    answer = await herd.post("/admin/models/beta:bold/load")
    assert (answer.json["name"], answer.json["personality"]) == ("beta", None)
    await herd.post("/admin/models/beta:verse/load")
    assert (await herd.get("/admin/models/beta")).json["personality"] == "poet"
    assert (await herd.get("/unloadModel?model=beta:bold")).json["model"] == "beta"


async def test_v1_models_id_of_an_unknown_model_is_a_404(herd: Herd) -> None:
    answer = await herd.get("/v1/models/alpa")
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert answer.error["message"].endswith("did you mean alpha?")


async def test_load_answers_when_the_model_is_ready(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    loading = asyncio.create_task(herd.post("/loadModel", {"model": "alpha"}))
    await until(lambda: herd.state("alpha") == "starting" and bool(fake.starts()))
    assert not loading.done()
    fake.open_gate()
    answer = await loading
    assert answer.status == 200
    assert answer.json == {"message": "Model loaded successfully", "model": "alpha", "personality": None}
    assert herd.state("alpha") == "ready"


async def test_load_of_a_loaded_model_starts_nothing(herd: Herd, fake: Fake) -> None:
    await load(herd, "alpha")
    await load(herd, "alpha")
    assert len(fake.starts()) == 1


async def test_load_of_an_alias_tells_the_models_name(beta: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd()
    answer = await herd.post("/loadModel", {"model": "b"})
    assert answer.json["model"] == "beta"


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}, {"personality": "pirate"}])
async def test_load_without_a_model_is_a_400(herd: Herd, body: dict[str, Any]) -> None:
    answer = await herd.post("/loadModel", body)
    assert answer.status == 400
    assert answer.json == {"error": "'model' is missing: the name of the model to load."}


@pytest.mark.parametrize("body", [{"model": 5}, {"model": "alpha", "personality": 5}])
async def test_load_with_fields_of_a_wrong_type_is_a_400(herd: Herd, body: dict[str, Any]) -> None:
    answer = await herd.post("/loadModel", body)
    assert answer.status == 400
    assert "must be a string" in answer.error


@pytest.mark.parametrize(
    "body", [{"model": "alpah"}, {"model": "alpha", "personality": "pirat"}, {"model": "alpha:pirat"}]
)
async def test_load_of_an_unknown_model_or_personality_is_a_404_with_the_nearest(
    herd: Herd, fake: Fake, body: dict[str, Any]
) -> None:
    answer = await herd.post("/loadModel", body)
    assert answer.status == 404
    assert isinstance(answer.error, str)
    assert "alpha" in answer.error
    assert "pirat" not in body or "pirate" in answer.error
    assert fake.starts() == []


async def test_load_that_fails_is_a_500_with_the_reason(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 3, "lines": ["srv    load_model: failed to load model, 'no such tensor'"]})
    answer = await herd.post("/loadModel", {"model": "alpha"})
    assert answer.status == 500
    assert isinstance(answer.error, str)
    assert "alpha" in answer.error
    assert "no such tensor" in answer.error
    assert "exit status 3" in answer.error


async def test_load_of_a_file_that_is_no_gguf_is_a_500_that_says_so(stage: Stage, fake: Fake, herd: Herd) -> None:
    (stage.data / "models" / "alpha.gguf").write_bytes(b"not a model")
    answer = await herd.post("/loadModel", {"model": "alpha"})
    assert answer.status == 500
    assert "alpha.gguf is not a GGUF file" in answer.error
    assert answer.headers["x-should-retry"] == "false"
    assert fake.starts() == []


async def test_load_tries_at_once_what_has_failed_before(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 1}, faulty_starts=2)
    for _ in range(2):
        assert (await herd.post("/loadModel", {"model": "alpha"})).status == 500
    began = time.monotonic()
    await load(herd, "alpha")
    assert time.monotonic() - began < 0.9
    assert len(fake.starts()) == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unload_stops_the_active_model(herd: Herd, fake: Fake, method: str) -> None:
    await load(herd, "alpha")
    answer = await herd.ask(method, "/unloadModel")
    assert answer.status == 200
    assert answer.json == {"message": "Model unloaded.", "model": "alpha"}
    assert herd.state("alpha") == "stopped"
    assert (await herd.get("/models")).json == []


async def test_unload_where_nothing_is_loaded_is_a_200(herd: Herd) -> None:
    assert await unload(herd) == {"message": "Model unloaded.", "model": None}
    assert await unload(herd, "?model=alpha") == {"message": "Model unloaded.", "model": "alpha"}


async def test_unload_of_an_unknown_model_is_a_404(herd: Herd) -> None:
    answer = await herd.get("/unloadModel?model=alpah")
    assert answer.status == 404
    assert answer.error.endswith("did you mean alpha?")


async def test_unload_lets_answers_in_flight_end(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two three") as events:
        assert await events.token() == "one"
        unloading = asyncio.create_task(unload(herd))
        await until(lambda: herd.state("alpha") == "draining")
        fake.release_streams()
        assert (await events.rest())[-1] == b"data: [DONE]\n"
    await unloading
    assert herd.state("alpha") == "stopped"


async def test_unload_while_it_loads_ends_the_load(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    waiting = asyncio.create_task(herd.chat("hi"))
    loading = asyncio.create_task(herd.post("/loadModel", {"model": "alpha"}))
    await until(lambda: bool(fake.starts()))
    await unload(herd, "?model=alpha")
    chat, loaded = await waiting, await loading
    assert (chat.status, chat.error["code"]) == (503, "model_unloaded")
    assert loaded.status == 500
    assert "was unloaded while it was loading" in loaded.error


async def test_request_while_it_unloads_gets_a_fresh_start(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
        unloading = asyncio.create_task(unload(herd))
        await until(lambda: herd.state("alpha") == "draining")
        second = asyncio.create_task(herd.chat("again", model="alpha"))
        fake.release_streams()
        await events.rest()
    await unloading
    assert (await second).text == "again"
    assert len(fake.starts()) == 2


async def test_without_anything_loaded_the_default_is_the_first_of_the_catalog(
    beta: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd()
    assert (await herd.get("/health")).json["default_model"] == "alpha"
    assert (await herd.chat("hi")).json["model"] == "alpha"


async def test_without_anything_loaded_the_default_is_the_one_of_the_settings(
    beta: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(model={"name": "beta"})
    assert (await herd.get("/health")).json["default_model"] == "beta"
    assert (await herd.chat("hi")).json["model"] == "beta"


async def test_the_model_loaded_last_is_active_and_unloading_it_makes_the_one_before_it_active(
    beta: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd()
    await load(herd, "alpha")
    await load(herd, "beta")
    assert (await herd.chat("hi")).json["model"] == "beta"
    await load(herd, "alpha")
    assert (await herd.chat("hi")).json["model"] == "alpha"
    assert (await unload(herd))["model"] == "alpha"
    assert (await herd.get("/health")).json["default_model"] == "beta"
    assert (await unload(herd))["model"] == "beta"
    assert (await herd.get("/health")).json["default_model"] == "alpha"


async def test_a_model_loaded_by_a_request_is_not_the_active_one(beta: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd()
    await herd.chat("hi", model="beta")
    assert (await herd.chat("hi")).json["model"] == "alpha"
    await load(herd, "beta")
    await herd.chat("hi", model="alpha")
    assert (await herd.chat("hi")).json["model"] == "beta"


async def test_unload_without_a_name_where_none_is_active_is_of_what_a_request_loaded(
    beta: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd()
    await herd.chat("hi", model="beta")
    assert (await unload(herd))["model"] == "beta"
    assert (await herd.get("/models")).json == []


async def test_a_request_without_a_model_where_none_is_configured_is_a_404(start_herd: StartHerd) -> None:
    herd = await start_herd()
    for path in (CHAT, "/chat/completions"):
        answer = await herd.post(path, said("hi"))
        assert answer.status == 404
        assert "No model is configured" in answer.error["message"]
    assert (await herd.get("/v1/models")).json == {"object": "list", "data": []}
    assert (await herd.get("/health")).json == {"status": "ok", "default_model": None, "models": []}
