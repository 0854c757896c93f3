"""What administrators see of requests that have ended: the history, what was captured, and samples."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import ClientError

from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Events, Herd, data_of, said, until
from tests.routes.stage import CHAT, Fake, Stage

HISTORY = "/admin/requests/history"
CAPTURING = {"capture": True}


async def history(herd: Herd, query: str = "") -> list[Any]:
    answer = await herd.get(f"{HISTORY}{query}")
    assert answer.status == 200, answer.body
    listed: list[Any] = answer.json["requests"]
    return listed


async def captured(herd: Herd) -> Any:
    """What was captured of the request that ended last."""
    newest = (await history(herd))[0]
    assert newest["captured"]
    return (await herd.get(f"{HISTORY}/{newest['n']}")).json["capture"]


async def switch(herd: Herd, enabled: bool) -> Answer:
    return await herd.ask("PUT", "/admin/capture", {"enabled": enabled})


@asynccontextmanager
async def listening(herd: Herd) -> AsyncIterator[Callable[[str], Any]]:
    """The feed, after its snapshot; the function waits for the next event of a kind."""
    async with herd.open("GET", "/admin/events") as response:
        events = Events(response)

        async def next_of(kind: str) -> Any:
            while (frame := await events.next()) is not None:
                _, _, rest = frame.partition(b"\n")
                if rest.startswith(f"event: {kind}\n".encode()):
                    return data_of(rest.partition(b"\n")[2])
            raise AssertionError("the feed has ended")

        await next_of("snapshot")
        yield next_of


# the history


async def test_a_stream_that_ended_is_told_with_what_it_took(herd: Herd) -> None:
    async with herd.stream("one two three") as events:
        await events.rest()
    (ended,) = await history(herd)
    assert {
        "n": 1,
        "model": "alpha",
        "key": None,
        "route": CHAT,
        "stream": True,
        "outcome": "ok",
        "completion_tokens": 6,
        "captured": False,
    }.items() <= ended.items()
    assert 0 < ended["waited"] <= ended["first_token"] <= ended["seconds"]
    assert ended["prompt_tokens"] > 0
    assert ended["bytes"] > 0


async def test_a_whole_answer_has_no_first_token(herd: Herd) -> None:
    await herd.chat("one two")
    (ended,) = await history(herd)
    assert (ended["stream"], ended["first_token"], ended["completion_tokens"]) == (False, None, 2)


@pytest.mark.parametrize("path", ["/upstream/alpha/props", "/props"])
async def test_what_engines_say_of_themselves_is_there_without_tokens(herd: Herd, path: str) -> None:
    assert (await herd.get(path)).status == 200
    (ended,) = await history(herd)
    assert (ended["outcome"], ended["prompt_tokens"], ended["completion_tokens"]) == ("ok", None, None)
    assert ended["bytes"] > 0


async def test_the_key_is_told_by_its_id(fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]) -> None:
    key = make_key("admin")
    herd = await start_herd()
    herd.key = key
    await herd.chat("one")
    (ended,) = await history(herd)
    assert ended["key"] == herd.service.keys.list()[0].id
    assert key not in json.dumps(ended)


async def test_a_request_that_never_had_its_model_is_there_with_the_reason(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 3, "lines": []})
    code = (await herd.chat("one")).error["code"]
    (ended,) = await history(herd)
    assert (ended["outcome"], ended["waited"], ended["completion_tokens"]) == (code, None, None)


async def test_so_is_one_that_found_the_queue_full_and_one_that_was_cancelled(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    stage.model("alpha", queue=1)
    fake.close_gate()
    herd = await start_herd()
    asking = asyncio.create_task(herd.post(CHAT, said("one"), headers={"X-Request-ID": "mine"}))
    await until(lambda: len(herd.service.inflight) == 1)
    assert (await herd.chat("two")).status == 429
    await herd.post("/admin/requests/mine/cancel")
    await asking
    assert [ended["outcome"] for ended in await history(herd)] == ["cancelled", "queue_full"]
    fake.open_gate()


async def test_a_client_that_left_is_told_with_about_what_it_got(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
    await until(lambda: not herd.service.gate.in_flight)
    (ended,) = await history(herd)
    assert (ended["outcome"], ended["completion_tokens"]) == ("left", 2)


async def test_pages_follow_each_other(herd: Herd) -> None:
    for _ in range(3):
        await herd.chat("one")
    first = await history(herd, "?limit=2")
    assert [ended["n"] for ended in first] == [3, 2]
    assert [ended["n"] for ended in await history(herd, "?limit=2&before=2")] == [1]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *((f"?limit={value}", "limit") for value in ("0", "1001", "x", "-1", "9" * 5000, "%C2%B2")),
        *((f"?before={value}", "before") for value in ("0", "x", "1.5")),
    ],
)
async def test_a_page_that_can_not_be_is_a_400(herd: Herd, query: str, param: str) -> None:
    answer = await herd.get(f"{HISTORY}{query}")
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize("n", ["2", "0", "x", "9" * 5000])
async def test_a_number_that_is_not_there_is_a_404(herd: Herd, n: str) -> None:
    await herd.chat("one")
    assert (await herd.get(f"{HISTORY}/1")).json["capture"] is None
    answer = await herd.get(f"{HISTORY}/{n}")
    assert (answer.status, answer.error["code"]) == (404, "request_not_found")


async def test_the_history_has_its_limit_and_can_be_forgotten(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity={"history": 2, "capture": True})
    for _ in range(3):
        await herd.chat("one")
    assert [ended["n"] for ended in await history(herd)] == [3, 2]
    assert (await herd.ask("DELETE", HISTORY)).json == {"forgotten": 2}
    assert await history(herd) == []
    assert (await herd.get("/admin/capture")).json["captures"] == 0


async def test_a_running_stream_tells_its_tokens_and_since_when_it_has_its_model(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
        (running,) = (await herd.get("/admin/requests")).json["requests"]
        assert running["tokens"] == 2  # the first event tells of the role
        assert running["started"] <= running["leased_at"] <= running["first_byte_at"]


async def test_the_feed_tells_begin_and_end_of_a_request(herd: Herd) -> None:
    async with listening(herd) as next_of:
        await herd.post(CHAT, said("one"), headers={"X-Request-ID": "mine"})
        started, ended = await next_of("request"), await next_of("request")
    assert isinstance(started.pop("started"), float)
    assert started == {
        "id": "mine",
        "model": "alpha",
        "state": "started",
        "key": None,
        "route": CHAT,
        "stream": False,
    }
    assert ended == {"state": "ended", "status": "ok", **(await history(herd))[0]}


# captures


async def test_nothing_is_captured_unless_it_is_wanted(herd: Herd) -> None:
    assert (await herd.get("/admin/capture")).json == {
        "enabled": False,
        "captures": 0,
        "size": 256 * 1024,
        "keep": 50,
    }
    await herd.chat("one")
    (ended,) = await history(herd)
    assert not ended["captured"]


async def test_a_whole_answer_is_captured_as_it_was_sent(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=CAPTURING)
    sent = json.dumps(said("one two")).encode()
    answer = await herd.post(f"{CHAT}?a=b", raw=sent, headers={"X-Request-ID": "mine", "Cookie": "a=secret"})
    capture = await captured(herd)
    asked, answered = capture["request"], capture["answer"]
    assert (asked["method"], asked["path"], asked["body"]) == ("POST", f"{CHAT}?a=b", sent.decode())
    assert (asked["size"], asked["truncated"]) == (len(sent), False)
    assert (asked["headers"]["Cookie"], asked["headers"]["X-Request-ID"]) == ("[redacted]", "mine")
    assert (answered["status"], answered["body"]) == (200, answer.body.decode())
    assert answered["headers"]["X-Request-ID"] == "mine"
    assert (answered["size"], answered["truncated"], answered["cut_off"]) == (len(answer.body), False, False)


@pytest.mark.parametrize("change", [{}, {"stream": True}, {"temperature": "hot"}, {"messages": [], "model": "nobody"}])
async def test_no_header_of_an_answer_is_redacted(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str], change: dict[str, Any]
) -> None:
    key = make_key("admin", requests_per_minute=100, tokens_per_day=1000)
    herd = await start_herd(activity=CAPTURING, cors={"allowed_origins": ["http://page.example"]})
    herd.key = key
    headers = {"Origin": "http://page.example", "Authorization": f"Bearer {key}"}
    async with herd.open("POST", CHAT, {**said("one"), **change}, headers=headers) as response:
        await response.read()
    answered = (await captured(herd))["answer"]
    assert answered["status"] == response.status
    assert answered["headers"].items() <= dict(response.headers).items()
    assert "x-ratelimit-remaining-tokens" in {name.lower() for name in answered["headers"]}


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v1/messages"])
async def test_a_stream_is_captured_as_it_was_sent(fake: Fake, start_herd: StartHerd, path: str) -> None:
    herd = await start_herd(activity=CAPTURING)
    body = said("one two", stream=True, model="alpha", max_tokens=9)
    async with herd.open("POST", path, body) as response:
        sent = await response.read()
        assert response.status == 200
    answered = (await captured(herd))["answer"]
    assert (answered["status"], answered["body"].encode(), answered["size"]) == (200, sent, len(sent))
    assert answered["headers"]["Content-Type"] == response.headers["Content-Type"]


async def test_an_answer_in_another_form_is_captured_in_that(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=CAPTURING)
    answer = await herd.post("/api/chat", said("one two", stream=False, model="alpha"))
    assert (await captured(herd))["answer"]["body"].encode() == answer.body


async def test_bytes_that_are_handed_on_are_captured(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=CAPTURING)
    answer = await herd.get("/upstream/alpha/props")
    capture = await captured(herd)
    assert (capture["request"]["body"], capture["request"]["path"]) == ("", "/upstream/alpha/props")
    assert (capture["answer"]["status"], capture["answer"]["body"].encode()) == (200, answer.body)


async def test_an_error_is_captured_in_the_form_of_its_route(fake: Fake, start_herd: StartHerd) -> None:
    fake.knobs(exit_on_start={"code": 3, "lines": []})
    herd = await start_herd(activity=CAPTURING)
    answer = await herd.post("/api/chat", said("one", model="alpha"))
    answered = (await captured(herd))["answer"]
    assert (answered["status"], answered["body"].encode()) == (answer.status, answer.body)
    assert answer.status >= 500


async def test_of_a_stream_that_broke_off_what_was_sent_is_kept(fake: Fake, start_herd: StartHerd) -> None:
    fake.hold_streams()
    herd = await start_herd(activity=CAPTURING)
    async with herd.stream("one two") as events:
        await events.token()
    await until(lambda: not herd.service.gate.in_flight)
    answered = (await captured(herd))["answer"]
    assert answered["status"] == 200
    assert answered["cut_off"]
    assert '"one' in answered["body"]
    assert "[DONE]" not in answered["body"]


async def test_a_stream_that_is_cancelled_after_its_head_is_captured_as_its_client_got_it(
    fake: Fake, start_herd: StartHerd
) -> None:
    fake.hold_streams()
    herd = await start_herd(activity=CAPTURING)
    headers = {"X-Request-ID": "mine"}
    async with herd.open("POST", f"/upstream/alpha{CHAT}", said("one two", stream=True), headers=headers) as response:
        got = await response.content.readany()
        await herd.post("/admin/requests/mine/cancel")
        with pytest.raises(ClientError):
            await response.read()
    await until(lambda: not herd.service.gate.in_flight)
    answered = (await captured(herd))["answer"]
    assert (answered["status"], answered["cut_off"]) == (200, True)
    assert answered["headers"]["Content-Type"] == response.headers["Content-Type"]
    assert answered["body"].encode().startswith(got)
    assert "cancelled" not in answered["body"]


async def test_a_stream_that_tells_its_error_itself_is_not_cut_off(fake: Fake, start_herd: StartHerd) -> None:
    fake.knobs(error_stream_after=1)
    herd = await start_herd(activity=CAPTURING)
    async with herd.stream("one two") as events:
        await events.rest()
    answered = (await captured(herd))["answer"]
    assert (answered["status"], answered["cut_off"]) == (200, False)
    assert "error" in answered["body"]


async def test_a_client_that_left_before_any_answer_got_none(fake: Fake, start_herd: StartHerd) -> None:
    fake.close_gate()
    herd = await start_herd(activity=CAPTURING)
    asking = asyncio.create_task(herd.chat("one"))
    await until(lambda: len(herd.service.inflight) == 1)
    asking.cancel()
    await until(lambda: not herd.service.gate.in_flight)
    capture = await captured(herd)
    nothing = {"body": "", "size": 0, "truncated": False}
    assert capture["answer"] == {"status": None, "headers": {}, "cut_off": True, **nothing}
    assert "one" in capture["request"]["body"]
    fake.open_gate()


async def test_large_bodies_are_cut(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity={"capture": True, "capture_size": 20})
    sent = json.dumps(said("word " * 10_000)).encode()
    answer = await herd.post(CHAT, raw=sent)
    capture = await captured(herd)
    assert (capture["request"]["body"], capture["request"]["size"]) == (sent[:20].decode(), len(sent))
    assert (capture["answer"]["body"], capture["answer"]["size"]) == (answer.body[:20].decode(), len(answer.body))
    assert capture["request"]["truncated"]
    assert capture["answer"]["truncated"]


async def test_a_body_that_comes_in_parts_is_captured_too(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=CAPTURING)
    text = json.dumps(said("one")).encode()

    async def parts() -> AsyncIterator[bytes]:
        yield text[:10]
        await until(lambda: bool(herd.service.metrics))
        yield text[10:]

    assert (await herd.post(CHAT, raw=parts())).status == 200
    assert (await captured(herd))["request"]["body"].encode() == text


async def test_no_key_is_in_a_capture_or_in_any_log(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    stage: Stage,
    fake: Fake,
    start_herd: StartHerd,
    make_key: Callable[..., str],
) -> None:
    caplog.set_level(logging.DEBUG)
    key = make_key("admin")
    herd = await start_herd(activity=CAPTURING)
    herd.key = key
    paths = CHAT, f"{CHAT}?api_key={key}", f"{CHAT}?note={key.replace('-', '%2D')}"
    for stream, path in itertools.product((False, True), paths):
        # Words come back; it is larger than what is redacted at once.
        answer = await herd.post(path, said(f"canary {key} {'w' * 20_000}", stream=stream))
        assert answer.status == 200
        capture = await captured(herd)
        assert "canary" in capture["request"]["body"]
        assert "canary" in capture["answer"]["body"]
        assert capture["request"]["headers"]["Authorization"] == "[redacted]"
        assert key not in json.dumps(capture)
        assert key not in unquote(capture["request"]["path"])
    await herd.server.close()  # by which all lines are written
    logs = {
        "records": caplog.text,
        "recent": "\n".join(kept.line.text for kept in herd.service.recent_log.since(0)[0]),
        "stderr": capfd.readouterr().err,
        **{path.name: path.read_text(errors="replace") for path in stage.data.rglob("*.log*")},
    }
    assert f"POST '{CHAT}'" in logs["stderr"], "nothing was logged, so nothing was looked at"
    assert f"POST '{CHAT}'" in logs["recent"]
    assert "audit.log" in logs
    for where, text in logs.items():
        assert "canary" not in text, where
        assert key not in unquote(text), where


async def test_an_escaped_key_in_a_body_is_found(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]
) -> None:
    herd = await start_herd(activity=CAPTURING)
    key = herd.key = make_key("admin")
    await until(lambda: herd.service.keys_required)
    body = json.dumps(said(f"hello {key}")).replace("-", r"\u002d")
    assert (await herd.post(CHAT, raw=body.encode())).status == 200
    asked = (await captured(herd))["request"]
    assert json.loads(asked["body"])["messages"][0]["content"] == "hello [redacted]"


async def test_beyond_the_most_the_oldest_captures_go_and_the_history_stays(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity={"capture": True, "capture_keep": 2})
    for _ in range(3):
        await herd.chat("one")
    assert [ended["captured"] for ended in await history(herd)] == [True, True, False]
    assert (await herd.get(f"{HISTORY}/1")).json["capture"] is None
    assert (await herd.get("/admin/capture")).json["captures"] == 2


async def test_capturing_is_switched_on_and_off_which_forgets(herd: Herd) -> None:
    async with listening(herd) as next_of:
        assert (await switch(herd, True)).json["enabled"] is True
        assert await next_of("capture") == {"enabled": True}
        await herd.chat("one")
        assert (await history(herd))[0]["captured"]
        answer = (await switch(herd, False)).json
        assert (answer["enabled"], answer["captures"]) == (False, 0)
        assert await next_of("capture") == {"enabled": False}
    assert not (await history(herd))[0]["captured"]
    assert (await herd.get(f"{HISTORY}/1")).json["capture"] is None
    await herd.chat("two")
    assert not (await history(herd))[0]["captured"]


async def test_what_runs_when_it_is_switched_off_is_forgotten_too(fake: Fake, start_herd: StartHerd) -> None:
    fake.hold_streams()
    herd = await start_herd(activity=CAPTURING)
    async with herd.stream("one two") as events:
        await events.token()
        assert (await herd.get("/admin/capture")).json["captures"] == 1
        await switch(herd, False)
        await switch(herd, True)
        fake.release_streams()
        await events.rest()
    (ended,) = await history(herd)
    assert not ended["captured"]


@pytest.mark.parametrize("body", [{}, {"enabled": None}, {"enabled": "yes"}, {"enabled": 1}])
async def test_a_switch_that_is_neither_on_nor_off_is_a_400(herd: Herd, body: Any) -> None:
    answer = await herd.ask("PUT", "/admin/capture", body)
    assert (answer.status, answer.error["param"]) == (400, "enabled")


async def test_who_switched_it_is_in_the_audit_log(herd: Herd, stage: Stage) -> None:
    await switch(herd, True)
    await herd.ask("DELETE", HISTORY)
    await herd.server.close()
    lines = [json.loads(line) for line in (stage.data / "audit.log").read_text().splitlines()]
    done = [(line["action"], line["target"], line["status"]) for line in lines]
    assert done == [("PUT /admin/capture", "on", 200), ("DELETE /admin/requests/history", None, 200)]


async def test_who_read_a_capture_is_in_the_audit_log(herd: Herd, stage: Stage) -> None:
    await herd.chat("one")
    await herd.get(f"{HISTORY}/1")  # of which nothing is captured
    await switch(herd, True)
    await herd.chat("two")
    await history(herd)
    await herd.get(f"{HISTORY}/2")
    await switch(herd, False)
    await herd.get(f"{HISTORY}/2")
    await herd.server.close()
    lines = [json.loads(line) for line in (stage.data / "audit.log").read_text().splitlines()]
    done = [(line["action"], line["target"], line["status"]) for line in lines]
    read = ("GET /admin/requests/history/{n}", "2", 200)
    assert done == [("PUT /admin/capture", "on", 200), read, ("PUT /admin/capture", "off", 200)]
