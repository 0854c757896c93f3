"""Pulls of the service: from a hub of these tests into models.json and the catalog."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from manager import pulls as module
from manager.catalog import Catalog, load_catalog
from manager.errors import HerdError, QueueFull, RequestCancelled, ShuttingDown
from manager.feed import Feed
from manager.model_store import BadSource, ChoiceNeeded
from manager.models_edit import NameTaken
from manager.pulls import Pull, PullNotFound, Pulls, PullState, Wanted
from manager.settings import Settings
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.fakes.hub import Fault, Hub, running_hub

REPO: Final = "org/tiny-GGUF"
FILE: Final = "tiny-Q4_K_M.gguf"
BIG: Final = EMPTY_GGUF + bytes(300_000)


class Place:
    """Pulls with a feed and a catalog of their own."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self.settings = settings
        self.hub = hub
        self.feed = Feed()
        self.catalog = Catalog(())
        self.reloads = 0
        self.pulls = Pulls(settings, self.feed, lambda: self.catalog, self.reload)

    async def reload(self) -> None:
        self.reloads += 1
        self.catalog = await asyncio.to_thread(load_catalog, self.settings)

    def start(self, source: str = REPO, **more: Any) -> Pull:
        return self.pulls.start(Wanted(source, **more))

    async def ended(self, source: str = REPO, **more: Any) -> Pull:
        """One that has ended, well or not."""
        pull = self.start(source, **more)
        await pull.over.wait()
        return pull

    @property
    def entries(self) -> Any:
        return json.loads(self.settings.storage.models_file.read_text())

    def blob(self, file: str = FILE, repo: str = REPO) -> str:
        """The path at which the hub serves the file."""
        (path,) = [path for path in self.hub.files if path.startswith(f"/{repo}/") and path.endswith(f"/{file}")]
        return path


@pytest.fixture
def settings_at(make_settings: MakeSettings) -> Callable[[str], Settings]:
    made = make_settings()
    return lambda address: made.model_copy(update={"hub": made.hub.model_copy(update={"endpoint": address})})


@pytest.fixture
async def place(settings_at: Callable[[str], Settings]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running_hub())
        hub.add_repository(REPO, {FILE: EMPTY_GGUF})
        place = Place(settings_at(hub.address), hub)
        stack.push_async_callback(place.pulls.close)
        yield place


async def test_pulled_model_is_listed_and_in_the_catalog(place: Place) -> None:
    pull = await place.ended()
    assert (pull.state, pull.failure) == (PullState.DONE, None)
    assert pull.model in place.entries
    entry = place.catalog.get(pull.model or "")
    assert entry is not None
    assert entry.unavailable is None
    assert entry.path.read_bytes() == EMPTY_GGUF
    assert (pull.came, pull.total, place.reloads) == (len(EMPTY_GGUF), len(EMPTY_GGUF), 1)
    assert pull.ended is not None
    await place.pulls.done(pull)


async def test_states_are_told_in_their_order(place: Place) -> None:
    with place.feed.subscribe() as reader:
        pull = await place.ended()
        place.feed.close()
        told = []
        while (event := await reader.next()) is not None:
            assert (event.kind, event.data["id"]) == ("pull", pull.id)
            told.append(event.data["state"])
    assert list(dict.fromkeys(told)) == ["waiting", "resolving", "fetching", "done"]
    json.dumps(pull.as_dict())
    assert pull.as_dict()["files"][0]["name"] == FILE


async def test_progress_is_told_a_few_times_a_second(place: Place) -> None:
    now = 100.0
    pulls = Pulls(place.settings, place.feed, lambda: place.catalog, place.reload, lambda: now)
    pull = Pull(Wanted("x"), state=PullState.FETCHING)
    with place.feed.subscribe() as reader:
        for step in range(20):
            now = 100 + step / 10
            pulls._advance(pull, step * 50, 1000)
        place.feed.close()
        seen = []
        while (event := await reader.next()) is not None:
            seen.append(event.data["bytes"])
    assert 4 <= len(seen) <= 8
    assert pull.speed == pytest.approx(500)
    assert pull.as_dict()["total"] == 1000


@pytest.mark.parametrize("asking", [True, False])
async def test_what_holds_a_pull_up_is_told_until_it_goes_on(place: Place, asking: bool) -> None:
    path = f"/api/models/{REPO}/revision/main" if asking else place.blob()
    place.hub.fail(path, Fault(status=429, headers={"Retry-After": "300"}))
    with place.feed.subscribe() as reader:
        pull = place.start()
        while (event := await reader.next()) is not None and event.data["note"] is None:
            assert event.data["state"] not in module.ENDED
    assert event is not None
    assert event.data["note"] == pull.note == "waiting 300 s: the server answered 429 Whatever"
    assert event.data["state"] == ("resolving" if asking else "fetching")
    pull.advance(1, 2, 0.0)
    assert pull.as_dict()["note"] is None
    pull.note = "waiting"
    await place.pulls.cancel(pull.id)
    assert pull.as_dict()["note"] is None


async def test_name_of_another_model_at_the_same_address_replaces_nothing(place: Place) -> None:
    first = await place.ended()
    place.hub.add_repository(REPO, {FILE: BIG}, commit="d" * 40)
    other = await place.ended(name="other")
    assert other.failure is not None
    assert f"as a file of {first.model}" in other.failure.message
    assert (await place.ended()).state is PullState.DONE
    assert list(place.entries) == [first.model]


async def test_same_pull_twice_is_one_and_a_next_one_finds_all_there(place: Place) -> None:
    first = place.start()
    assert place.start() is first
    await place.pulls.done(first)
    again = await place.ended()
    assert again is not first
    assert (again.state, again.model) == (PullState.DONE, first.model)
    assert list(place.entries) == [first.model]
    assert len(place.hub.asked(place.blob())) == 1


async def test_more_than_two_wait_in_their_order(place: Place) -> None:
    repos = [f"org/m{number}-GGUF" for number in range(4)]
    for repo in repos:
        place.hub.add_repository(repo, {f"{repo[4:6]}.gguf": BIG})
        place.hub.fail(place.blob(f"{repo[4:6]}.gguf", repo), Fault(stall_after=1000))
    pulls = [place.start(repo) for repo in repos]
    await until(lambda: [pull.state for pull in pulls].count(PullState.FETCHING) == 2)
    assert [pull.state for pull in pulls[2:]] == [PullState.WAITING] * 2
    await place.pulls.cancel(pulls[0].id)
    await until(lambda: pulls[2].state is PullState.FETCHING)
    assert pulls[3].state is PullState.WAITING
    assert place.pulls.list() == tuple(pulls)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  states change by events of sockets
            await asyncio.sleep(0.002)


async def test_cancelled_pull_goes_on_where_it_was(place: Place) -> None:
    place.hub.add_repository(REPO, {FILE: BIG + bytes(2_000_000)})
    place.hub.fail(place.blob(), Fault(stall_after=1_500_000))
    pull = place.start()
    folder = place.settings.storage.models_folder
    await until(lambda: any(path.stat().st_size for path in folder.rglob("*.part")))
    waiting = asyncio.create_task(place.pulls.done(pull))
    assert (await place.pulls.cancel(pull.id)).state is PullState.CANCELLED
    with pytest.raises(RequestCancelled):
        await waiting
    again = await place.ended()
    assert again.state is PullState.DONE
    (first, second) = place.hub.asked(place.blob())
    assert first.range is None
    assert second.range is not None
    assert (await place.pulls.cancel(again.id)).state is PullState.DONE


async def test_pull_that_is_cancelled_before_it_begins_has_ended(place: Place) -> None:
    pull = place.start()
    await place.pulls.cancel(pull.id)
    assert (pull.state, place.hub.requests) == (PullState.CANCELLED, [])
    assert pull.ended is not None


@pytest.mark.parametrize("source", ["/etc/passwd", "./a.gguf", "../a.gguf", "~/a.gguf", "file:///etc/passwd"])
async def test_paths_of_the_machine_are_refused(place: Place, source: str) -> None:
    with pytest.raises(BadSource, match="llamaherd model import"):
        place.start(source)
    assert place.pulls.list() == ()


@pytest.mark.parametrize("source", ["word", "http://host/a.gguf", "https://host/a.bin", "ftp://host/a.gguf", "a/b\nc"])
async def test_what_can_be_no_source_is_refused_before_there_is_a_pull(place: Place, source: str) -> None:
    with pytest.raises(BadSource) as caught:
        place.start(source)
    assert caught.value.param == "source"
    assert place.pulls.list() == ()


async def test_name_that_is_no_name_is_refused(place: Place) -> None:
    with pytest.raises(BadSource, match="'name' must not contain a comma"):
        place.start(name="a,b")


async def test_name_of_another_model_is_refused_before_anything_comes(place: Place, tiny_gguf: Path) -> None:
    file = place.settings.storage.models_file
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"mine": {"params": {"model": str(tiny_gguf)}}}))
    await place.reload()
    pull = await place.ended(name="mine")
    assert isinstance(pull.failure, NameTaken)
    assert (pull.failure.status, pull.failure.param) == (400, "name")
    assert place.hub.asked(place.blob()) == []
    assert (await place.ended(name="other")).state is PullState.DONE
    assert list(place.entries) == ["mine", "other"]


async def test_choice_that_must_be_made_is_told(place: Place) -> None:
    place.hub.add_repository("org/two-GGUF", {"one-Q4_K_M.gguf": EMPTY_GGUF, "two-Q4_K_M.gguf": EMPTY_GGUF})
    pull = await place.ended("org/two-GGUF")
    assert isinstance(pull.failure, ChoiceNeeded)
    told = pull.as_dict()["error"]
    assert {choice["quant"] for choice in told["choices"]} == {"one-Q4_K_M", "two-Q4_K_M"}
    assert told["param"] == "quant"
    assert (await place.ended("org/two-GGUF", quant="two-Q4_K_M")).state is PullState.DONE


async def test_failure_is_told_to_who_waits(place: Place) -> None:
    pull = place.start("org/nothing")
    with pytest.raises(HerdError) as raised:
        await place.pulls.done(pull)
    assert raised.value is pull.failure
    assert pull.as_dict()["error"]["message"] == raised.value.message
    assert not place.settings.storage.models_file.exists()


async def test_broken_models_file_is_told_and_stays(place: Place) -> None:
    file = place.settings.storage.models_file
    file.parent.mkdir(parents=True)
    file.write_text("{")
    pull = await place.ended()
    assert pull.state is PullState.FAILED
    assert pull.failure is not None
    assert (pull.failure.status, "can't be served" in pull.failure.message) == (400, True)
    assert file.read_text() == "{"


async def test_mistake_of_ours_ends_the_pull_and_no_other(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    pulls = Pulls(place.settings, place.feed, lambda: place.catalog, broken)
    pull = pulls.start(Wanted(REPO))
    await pull.over.wait()
    assert (pull.state, pull.failure and pull.failure.status) == (PullState.FAILED, 500)
    assert "ZeroDivisionError" in caplog.text


async def test_only_the_last_that_ended_are_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    pulls = [await place.ended(name=f"m{number}") for number in range(4)]
    assert place.pulls.list() == tuple(pulls[2:])
    with pytest.raises(PullNotFound):
        place.pulls.get(pulls[0].id)


async def test_no_more_than_so_many_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    for number in range(3):
        place.start(name=f"m{number}")
    with pytest.raises(QueueFull):
        place.start(name="one-more")
    await place.pulls.close()


async def test_closing_ends_all_and_takes_no_more(place: Place) -> None:
    place.hub.add_repository(REPO, {FILE: BIG})
    place.hub.fail(place.blob(), Fault(stall_after=1000, stays=True))
    pulls = [place.start(name=f"m{number}") for number in range(3)]
    await until(lambda: pulls[0].state is PullState.FETCHING)
    await place.pulls.close()
    assert {pull.state for pull in pulls} == {PullState.CANCELLED}
    with pytest.raises(ShuttingDown):
        place.start()


async def test_two_pulls_never_write_to_one_file(place: Place) -> None:
    place.hub.add_repository(REPO, {FILE: BIG})
    place.hub.fail(place.blob(), Fault(stall_after=1000))
    first, second = place.start(name="one"), place.start(name="two")
    await until(lambda: first.state is PullState.FETCHING and second.state is PullState.RESOLVING)
    await asyncio.wait_for(place.hub.stalled.wait(), 5)
    assert len(place.hub.asked(place.blob())) == 1
    await place.pulls.cancel(first.id)
    await place.pulls.done(second)
    assert list(place.entries) == ["two"]


async def test_address_that_is_refused_is_told_without_its_secrets(place: Place) -> None:
    for address in ("https://me:hunter2@host/a.bin?sig=s3cr3t", "https://me:hunter2@host/a.gguf?sig=s3cr3t"):
        with pytest.raises(BadSource) as caught:
            place.start(address)
        assert "https://host/a." in caught.value.message
        assert "hunter2" not in caught.value.message
        assert "s3cr3t" not in caught.value.message


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://me:secret@host/a.gguf?sig=secret#secret", "https://host/a.gguf"),
        ("https://host/a@b.gguf", "https://host/a@b.gguf"),
        ("org/repo:Q4", "org/repo:Q4"),
    ],
)
async def test_source_is_told_without_its_secrets(source: str, shown: str) -> None:
    pull = Pull(Wanted(source))
    assert (pull.source, pull.as_dict()["source"]) == (shown, shown)
    assert "secret" not in json.dumps(pull.as_dict())


async def test_same_source_with_another_name_is_another_pull(place: Place) -> None:
    one = place.start()
    other = place.pulls.start(replace(one.wanted, name="other"))
    assert one is not other
    await place.pulls.done(one)
    await place.pulls.done(other)
    assert set(place.entries) == {one.model, "other"}
