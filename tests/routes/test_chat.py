"""The chat routes of the original: whichever model is active, `responses`, one question, the recorded errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, data_of, said, until
from tests.routes.stage import CHAT, Fake, Stage

PATH = "/chat/completions"


async def load(herd: Herd, model: str, **fields: Any) -> None:
    assert (await herd.post("/loadModel", {"model": model, **fields})).status == 200


async def test_a_model_that_is_not_known_means_the_active_one(herd: Herd) -> None:
    for name in ("NotNeeded", "gpt-4o", "", None, "alpha"):
        answer = await herd.post(PATH, said("hi", model=name))
        assert (answer.status, answer.json["model"]) == (200, "alpha"), name


async def test_a_model_that_is_known_is_used(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd()
    await load(herd, "alpha")
    assert (await herd.post(PATH, said("hi", model="beta"))).json["model"] == "beta"
    assert (await herd.post(PATH, said("hi", model="NotNeeded"))).json["model"] == "alpha"


async def test_model_must_still_be_a_string(herd: Herd) -> None:
    answer = await herd.post(PATH, said("hi", model=5))
    assert (answer.status, answer.error["param"]) == (400, "model")


@pytest.mark.parametrize("model", ["alpha:pirat", "a:pirat"])
async def test_a_personality_that_a_known_model_does_not_have_is_a_404(
    stage: Stage, start_herd: StartHerd, model: str
) -> None:
    fake = stage.model("alpha", personalities={"pirate": "Talk like a pirate."}, aliases=["a"])
    answer = await (await start_herd()).post(PATH, said("hi", model=model))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "no personality 'pirat'" in answer.error["message"]
    assert fake.starts() == []


async def test_a_colon_in_an_unknown_model_is_no_personality(herd: Herd) -> None:
    assert (await herd.post(PATH, said("hi", model="gpt-4o:latest"))).json["model"] == "alpha"


async def test_whole_answer_also_has_the_texts_of_its_choices(herd: Herd) -> None:
    answer = await herd.post(PATH, said("hi there", n=2))
    assert answer.json["responses"] == ["hi there", "hi there"]
    assert answer.text == "hi there"
    assert answer.json["object"] == "chat.completion"
    assert answer.json["usage"]["completion_tokens"] == 2


async def test_stream_ends_with_done(herd: Herd) -> None:
    async with herd.stream("one two", path=PATH, model="NotNeeded") as events:
        frames = await events.rest()
    assert frames[-1] == b"data: [DONE]\n"
    assert b"responses" not in b"".join(frames)


async def test_errors_have_the_openai_object(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500)
    answer = await herd.post(PATH, said("hi"))
    assert answer.status == 500
    assert answer.error["code"] == "generation_failed"


async def test_the_sequence_of_the_original_clients_works(herd: Herd, fake: Fake) -> None:
    await load(herd, "alpha", personality="pirate")
    answer = await herd.post(PATH, said("hi", model="NotNeeded", temperature=0.2))
    assert answer.echo[0] == {"role": "system", "content": "Talk like a pirate."}
    assert answer.json["responses"] == ["hi"]


async def test_ask_answers_one_question(herd: Herd, fake: Fake) -> None:
    answer = await herd.get("/chat/ask?question=why%20is%20it")
    assert answer.status == 200
    assert answer.json == {"question": "why is it", "response": "why is it"}
    assert fake.requests()[0]["body"]["messages"] == [{"role": "user", "content": "why is it"}]


async def test_ask_streams_fragments_and_done(herd: Herd) -> None:
    for word in ("true", "1", "True", "yes"):
        answer = await herd.get(f"/chat/ask?question=why%20is%20it&stream={word}")
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        *frames, done, end = answer.body.split(b"\n\n")
        assert (done, end) == (b"data: [DONE]", b"")
        assert [data_of(frame) for frame in frames] == [{"response": "why"}, {"response": " is"}, {"response": " it"}]


async def test_ask_refuses_a_stream_that_is_neither_yes_nor_no(herd: Herd, fake: Fake) -> None:
    answer = await herd.get("/chat/ask?question=hi&stream=maybe")
    assert (answer.status, answer.json) == (400, {"error": "'stream' must be true or false."})
    assert fake.starts() == []


@pytest.mark.parametrize("query", ["", "?question=", "?question=%20", "?stream=true"])
async def test_ask_without_a_question_is_a_400(herd: Herd, fake: Fake, query: str) -> None:
    answer = await herd.get(f"/chat/ask{query}")
    assert answer.status == 400
    assert answer.json == {"error": "'question' is missing."}
    assert fake.starts() == []


async def test_ask_goes_to_the_active_model_under_its_personality(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    beta = stage.model("beta", personalities={"poet": "Rhyme."})
    herd = await start_herd()
    await load(herd, "beta", personality="poet")
    await herd.get("/chat/ask?question=hi")
    assert beta.requests()[0]["body"]["messages"][0] == {"role": "system", "content": "Rhyme."}


async def test_ask_tells_a_failure_as_text(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500)
    for query in ("", "&stream=true"):
        answer = await herd.get(f"/chat/ask?question=hi{query}")
        assert answer.status == 500
        assert answer.json == {"error": "the fake failed"}


async def test_ask_stream_that_breaks_ends_with_an_error_and_without_done(herd: Herd, fake: Fake) -> None:
    fake.knobs(cut_stream_after=1)
    answer = await herd.get("/chat/ask?question=one%20two&stream=1")
    first, error = answer.body.strip().split(b"\n\n")
    assert data_of(first) == {"response": "one"}
    assert data_of(error)["error"]["code"] == "upstream_closed"


async def test_ask_stream_hands_on_the_engines_own_error(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_stream_after=1)
    answer = await herd.get("/chat/ask?question=one%20two&stream=1")
    first, error = answer.body.strip().split(b"\n\n")
    assert data_of(first) == {"response": "one"}
    assert data_of(error)["error"]["message"] == "the fake failed"


async def test_recorded_errors_start_empty(herd: Herd) -> None:
    answer = await herd.get("/chat/errors")
    assert (answer.status, answer.json) == (200, {"errors": []})


async def test_recorded_errors_are_newest_last_with_the_log_of_the_model(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    broken = stage.model("broken")
    broken.knobs(exit_on_start={"code": 1, "lines": ["load_model: the tensor is bent"]})
    fake.knobs(error_status=500, faulty_requests=1)
    herd = await start_herd()
    before = time.time()
    await herd.chat("hi", model="broken")
    await herd.chat("hi", model="alpha")
    await herd.post(CHAT, {"messages": []})  # a mistake of the client, not of a model
    first, second = (await herd.get("/chat/errors")).json["errors"]
    assert set(first) == {"time", "model", "code", "message", "log"}
    assert (first["model"], first["code"]) == ("broken", "model_load_failed")
    assert "the tensor is bent" in first["message"]
    assert any("the tensor is bent" in line for line in first["log"])
    assert (second["model"], second["code"], second["log"]) == ("alpha", "generation_failed", [])
    assert before <= first["time"] <= second["time"] <= time.time()


async def test_recorded_errors_never_hold_what_was_said(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500)
    await herd.chat("a-secret-word")
    assert b"a-secret-word" not in (await herd.get("/chat/errors")).body


async def test_what_an_engine_says_of_a_request_goes_to_its_sender_alone(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500)
    assert (await herd.chat("hi")).error["message"] == "the fake failed"  # engines quote what they can't take
    (record,) = (await herd.get("/chat/errors")).json["errors"]
    assert record["message"] == "The engine of 'alpha' failed at a request (generation_failed)."
    assert record["log"] == []


async def test_recorded_errors_show_logs_and_folders_to_admins_only(
    stage: Stage, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    plain, admin = make_key("plain", "inference"), make_key("admin")
    fake = stage.model("alpha")
    fake.knobs(exit_on_start={"code": 1, "lines": ["load_model: /srv/some/where/bent.gguf is bent"]})
    herd = await start_herd()
    await herd.post(CHAT, said("hi"), key=plain)
    await until(lambda: herd.state("alpha") == "failed")
    (seen,) = (await herd.get("/chat/errors", key=plain)).json["errors"]
    (known,) = (await herd.get("/chat/errors", key=admin)).json["errors"]
    assert seen["log"] == []
    assert "bent.gguf is bent" in seen["message"]
    assert "/srv" not in seen["message"]
    assert any("/srv/some/where/bent.gguf" in line for line in known["log"])
