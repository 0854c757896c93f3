"""One file over HTTP: it comes whole and checked, whatever the server does, or there is a reason and no file."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gzip
import hashlib
import json
import os
import resource
import stat
from pathlib import Path

import pytest

from manager.downloads import DownloadFailed, NoRoom, fetch
from manager.downloads.patience import Patience
from tests.fakes.hub import Fault, Hub
from tests.manager.downloads.conftest import DATA, PATH, Downloads

DIGEST = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)


async def failure(downloads: Downloads, url: str | None = None, **options: object) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        await downloads.fetch(url, **options)
    return caught.value


def ranges(hub: Hub) -> list[str | None]:
    return [request.range for request in hub.asked(PATH)]


async def test_a_file_comes_with_its_size_and_digest(downloads: Downloads, hub: Hub) -> None:
    told: list[tuple[int, int | None]] = []
    fetched = await downloads.fetch(sha256=DIGEST.upper(), size=SIZE, progress=lambda *numbers: told.append(numbers))
    assert (fetched.path, fetched.size, fetched.sha256) == (downloads.target, SIZE, DIGEST)
    assert fetched.etag == f'"{DIGEST[:32]}"'
    assert downloads.target.read_bytes() == DATA
    assert stat.S_IMODE(downloads.target.stat().st_mode) == 0o644
    assert downloads.left == ["a.gguf"]
    assert told[0] == (0, SIZE)
    assert told[-1] == (SIZE, SIZE)
    assert hub.requests[0].headers["accept-encoding"] == "identity"


async def test_a_server_may_tell_no_length(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(chunked=True))
    assert (await downloads.fetch()).sha256 == DIGEST


@pytest.mark.parametrize("reset", [False, True])
async def test_what_breaks_off_goes_on_where_it_was(downloads: Downloads, hub: Hub, reset: bool) -> None:
    hub.fail(PATH, Fault(cut_after=100_000, reset=reset), Fault(cut_after=50_000, reset=reset))
    assert (await downloads.fetch()).sha256 == DIGEST
    first, second, third = hub.asked(PATH)
    assert first.range is None
    assert second.headers["if-range"] == f'"{DIGEST[:32]}"'
    if not reset:  # which loses what the kernel still held
        assert second.range == "bytes=100000-"
        assert third.range == "bytes=150000-"
    assert len(downloads.pauses) == 2


async def test_every_new_byte_starts_the_count_of_tries_again(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, *[Fault(cut_after=20_000)] * 12)
    assert (await downloads.fetch()).sha256 == DIGEST
    assert max(downloads.pauses) <= Patience().first


async def test_the_pauses_double_while_nothing_comes(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, *[Fault(status=503)] * 5)
    assert (await downloads.fetch()).sha256 == DIGEST
    assert len(downloads.pauses) == 5
    for number, pause in enumerate(downloads.pauses):
        assert 2**number / 2 <= pause <= 2**number


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again_but_not_for_ever(downloads: Downloads, hub: Hub, status: int) -> None:
    hub.fail(PATH, Fault(status=status, stays=True))
    error = await failure(downloads)
    assert str(status) in error.message
    assert error.answered == status
    assert error.elsewhere
    assert len(hub.asked(PATH)) == Patience().tries
    assert downloads.left == []


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("100000", 300.0), ("Fri, 31 Dec 2100 23:59:59 GMT", 300.0), ("0", 0.0)]
)
async def test_a_server_that_asks_for_time_gets_it_within_reason(
    downloads: Downloads, hub: Hub, value: str, seconds: float
) -> None:
    hub.fail(PATH, Fault(status=429, headers={"Retry-After": value}))
    await downloads.fetch()
    assert downloads.pauses == [seconds]


async def test_a_date_that_is_past_asks_for_no_time_and_nonsense_for_the_usual(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(status=503, headers={"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"}))
    hub.fail(PATH, Fault(status=503, headers={"Retry-After": "soon"}))
    await downloads.fetch()
    assert downloads.pauses[0] == 0.0
    assert downloads.pauses[1] > 0.0


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "hub.token (HF_TOKEN)"), (403, "terms accepted"), (404, "does not exist"), (410, "410"), (418, "418")],
)
async def test_what_will_not_change_is_final(downloads: Downloads, hub: Hub, status: int, says: str) -> None:
    hub.fail(PATH, Fault(status=status, stays=True))
    error = await failure(downloads)
    assert says in error.message
    assert hub.url(PATH) in error.message
    assert not error.elsewhere
    assert len(hub.requests) == 1


async def test_a_gated_model_says_that_its_terms_are_to_be_accepted(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(status=403, headers={"X-Error-Code": "GatedRepo"}))
    assert "accept the model's terms" in (await failure(downloads)).message


async def test_nobody_listening_is_tried_again_and_said(downloads: Downloads) -> None:
    error = await failure(downloads, "http://127.0.0.1:1/a.gguf")
    assert "no connection to 127.0.0.1" in error.message
    assert error.elsewhere
    assert len(downloads.pauses) == Patience().tries - 1


async def test_silence_counts_as_broken_off(downloads: Downloads, hub: Hub) -> None:
    downloads.settings = downloads.settings.model_copy(update={"timeout": 0.1})
    hub.fail(PATH, Fault(stall_after=100_000))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-"]


async def test_a_server_that_ignores_ranges_begins_anew(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(ignore_range=True))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-"]


async def test_one_that_ignores_them_and_always_breaks_off_is_given_up(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000, ignore_range=True, stays=True))
    error = await failure(downloads)
    assert "100,000 of 300,000 bytes" in error.message
    assert len(hub.requests) == Patience().tries


@pytest.mark.parametrize(
    "told",
    ["bytes 0-299999/300000", "bytes 100000-299998/300000", "bytes 100000-299999/300001", "nonsense", "bytes */9"],
)
async def test_another_part_than_asked_for_is_not_taken(downloads: Downloads, hub: Hub, told: str) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(content_range=told))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-", None]


async def test_a_part_whose_whole_has_no_known_length_is_taken(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(content_range="bytes 100000-299999/*"))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-"]


async def test_another_version_begins_anew(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000, etag='"old"', body=b"o" * SIZE))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert [request.headers.get("if-range") for request in hub.requests] == [None, '"old"']


async def test_a_part_of_another_version_is_not_taken_though_the_server_sends_it(
    downloads: Downloads, hub: Hub
) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(headers={"ETag": '"new"'}))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-", None]


async def test_a_weak_etag_leaves_it_to_the_date(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000, etag='W/"weak"'), Fault(etag='W/"weak"'))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert hub.requests[1].headers["if-range"] == "Sat, 21 Nov 2026 10:00:00 GMT"


async def test_without_etag_date_and_digest_nothing_is_gone_on_from(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000, validators=False))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, None]


async def test_a_digest_is_enough_to_go_on(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000, validators=False))
    assert (await downloads.fetch(sha256=DIGEST)).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-"]


async def test_another_server_goes_on_from_what_the_first_one_sent(downloads: Downloads, hub: Hub) -> None:
    hub.files["/mirror/a.gguf"] = DATA
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=503, stays=True))
    await failure(downloads, sha256=DIGEST)
    assert (await downloads.fetch(hub.url("/mirror/a.gguf"), sha256=DIGEST)).sha256 == DIGEST
    (request,) = hub.asked("/mirror/a.gguf")
    assert request.range == "bytes=100000-"
    assert "if-range" not in request.headers


async def test_without_a_digest_another_address_is_another_file(downloads: Downloads, hub: Hub) -> None:
    hub.files["/b.gguf"] = DATA
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=404))
    await failure(downloads)
    await downloads.fetch(hub.url("/b.gguf"))
    assert hub.asked("/b.gguf")[0].range is None


async def test_a_failure_keeps_what_came_for_the_next_call(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=404))
    await failure(downloads)
    assert downloads.left == ["a.gguf.part", "a.gguf.part.json"]
    assert downloads.part.read_bytes() == DATA[:100_000]
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub)[-1] == "bytes=100000-"


async def test_what_is_beside_a_file_holds_no_secret(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=404))
    url = hub.url(PATH).replace("http://", "http://user:word@") + "?signature=s3cr3t"
    error = await failure(downloads, url)
    note = (downloads.folder / "a.gguf.part.json").read_text()
    for secret in ("word", "s3cr3t"):
        assert secret not in note
        assert secret not in error.message
    assert json.loads(note)["url"] == hub.url(PATH)


async def test_a_broken_note_is_no_reason_to_fail(downloads: Downloads, hub: Hub) -> None:
    downloads.part.write_bytes(DATA[:1000])
    (downloads.folder / "a.gguf.part.json").write_text("{")
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None]


async def test_what_was_all_there_needs_only_to_be_checked(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=404))
    await failure(downloads, sha256=DIGEST)
    downloads.part.write_bytes(DATA)
    assert (await downloads.fetch(sha256=DIGEST)).size == SIZE
    assert len(hub.requests) == 2


async def test_a_range_past_the_end_means_that_all_is_there(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=404))
    await failure(downloads)
    downloads.part.write_bytes(DATA)
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub)[-1] == "bytes=300000-"


async def test_a_range_past_the_end_of_a_shorter_file_begins_anew(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(cut_after=100_000), Fault(status=416, headers={"Content-Range": "bytes */50000"}))
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-", None]


async def test_416_without_a_range_is_final(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(status=416, stays=True))
    assert "416" in (await failure(downloads)).message
    assert len(hub.requests) == 1


async def test_a_server_that_announces_more_than_it_has_is_given_up_with_both_numbers(
    downloads: Downloads, hub: Hub
) -> None:
    hub.fail(PATH, Fault(announce=400_000, content_range="bytes 300000-399999/400000", validators=False, stays=True))
    error = await failure(downloads)
    assert "300,000 of 400,000 bytes" in error.message
    assert not downloads.target.exists()


@pytest.mark.parametrize("announced", [200_000, 400_000])
async def test_a_length_that_is_not_the_expected_one_is_refused_with_both(
    downloads: Downloads, hub: Hub, announced: int
) -> None:
    hub.fail(PATH, Fault(announce=announced))
    error = await failure(downloads, size=SIZE)
    assert f"{announced:,}" in error.message
    assert "300,000" in error.message
    assert error.elsewhere
    assert downloads.left == []


async def test_more_than_the_expected_length_is_refused_and_deleted(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(chunked=True, more=b"x"))
    assert "more than the 300,000 bytes" in (await failure(downloads, size=SIZE)).message
    assert downloads.left == []


async def test_less_than_the_expected_length_is_broken_off(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(chunked=True, body=DATA[:100_000], etag=f'"{DIGEST[:32]}"'))
    assert (await downloads.fetch(size=SIZE)).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=100000-"]


async def test_a_length_that_hides_the_end_is_found_out_by_the_digest(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(announce=200_000))
    error = await failure(downloads, sha256=DIGEST)
    assert DIGEST in error.message
    assert hashlib.sha256(DATA[:200_000]).hexdigest() in error.message
    assert error.elsewhere
    assert downloads.left == []


async def test_a_wrong_digest_leaves_what_was_there(downloads: Downloads) -> None:
    downloads.target.write_bytes(b"the one before")
    await failure(downloads, sha256="0" * 64)
    assert downloads.target.read_bytes() == b"the one before"
    assert downloads.left == ["a.gguf"]


async def test_what_does_not_pass_the_check_leaves_what_was_there(downloads: Downloads) -> None:
    downloads.target.write_bytes(b"the one before")
    seen: list[bytes] = []

    def check(path: Path) -> str | None:
        seen.append(path.read_bytes())
        return "that is no model"

    error = await failure(downloads, check=check)
    assert (error.message, error.elsewhere) == ("that is no model; what came was deleted", True)
    assert (seen, downloads.target.read_bytes()) == ([DATA], b"the one before")
    assert downloads.left == ["a.gguf"]


async def test_each_pause_is_told_with_its_reason(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(status=429, headers={"Retry-After": "300"}), Fault(cut_after=100_000), Fault(status=503))
    hub.fail(PATH, Fault(status=429, headers={"Retry-After": "0"}))
    notes: list[str] = []
    await downloads.fetch(note=notes.append)
    assert notes == [
        "waiting 300 s: the server answered 429 Whatever",
        "waiting 1 s: the answer broke off",
        "waiting 2 s: the server answered 503 Whatever",
    ]


async def test_what_comes_compressed_is_not_taken_for_the_file(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(body=gzip.compress(DATA), headers={"Content-Encoding": "gzip"}))
    assert "compressed (gzip)" in (await failure(downloads)).message
    assert downloads.left == []


async def test_a_web_page_is_not_taken_for_the_file(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(body=b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}))
    assert "web page" in (await failure(downloads)).message


async def test_no_room_is_said_before_anything_is_asked(downloads: Downloads, hub: Hub) -> None:
    with pytest.raises(NoRoom, match=r"a\.gguf needs 1,000,000,000,000,000,000 more bytes"):
        await downloads.fetch(size=10**18)
    assert hub.requests == []
    assert downloads.left == []


async def test_no_room_is_said_when_the_server_tells_the_length(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(announce=10**17))
    with pytest.raises(NoRoom, match="100,000,000,000,000,000"):
        await downloads.fetch()
    assert len(hub.requests) == 1


async def test_a_disk_that_fills_up_keeps_what_came(downloads: Downloads, hub: Hub) -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most[1]))  # no file grows beyond that: EFBIG
    try:
        with pytest.raises(NoRoom, match=r"is full: .* 200,000 bytes of a\.gguf are kept") as caught:
            await downloads.fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert (await downloads.fetch()).sha256 == DIGEST
    assert ranges(hub) == [None, "bytes=200000-"]


async def test_a_folder_that_cannot_be_written_is_named(downloads: Downloads) -> None:
    (downloads.folder / "file").write_text("")
    async with downloads.client() as client:
        with pytest.raises(DownloadFailed, match=r"file/a\.gguf: can't be written: (Not a directory|File exists)"):
            await fetch(
                downloads.hub.url(PATH),
                downloads.folder / "file" / "a.gguf",
                settings=downloads.settings,
                client=client,
            )


async def test_a_target_is_fetched_by_one_at_a_time(downloads: Downloads, hub: Hub) -> None:
    hub.fail(PATH, Fault(stall_after=100_000))
    first = asyncio.create_task(downloads.fetch())
    await hub.stalled.wait()
    assert "is being fetched already" in (await failure(downloads)).message
    first.cancel()
    await asyncio.wait([first])
    assert (await downloads.fetch()).sha256 == DIGEST


async def test_a_lock_that_was_waited_for_is_not_taken_on_what_is_finished(downloads: Downloads) -> None:
    """Who opened the part just before it was put in its place must not go on in the finished file."""
    downloads.part.write_bytes(DATA)
    with downloads.part.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "is being fetched already" in (await failure(downloads)).message
        downloads.part.rename(downloads.target)
        before = os.fstat(other.fileno()).st_ino
        assert (await downloads.fetch()).sha256 == DIGEST
    assert downloads.target.stat().st_ino != before


async def test_a_download_that_is_cancelled_leaves_its_part_and_no_task(downloads: Downloads, hub: Hub) -> None:
    before = asyncio.all_tasks()
    hub.fail(PATH, Fault(stall_after=100_000))
    task = asyncio.create_task(downloads.fetch())
    await hub.stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    served = {one for one in asyncio.all_tasks() - before if "serve" in repr(one.get_coro())}
    assert asyncio.all_tasks() - before - served == set()
    assert "a.gguf" not in downloads.left
    assert (await downloads.fetch()).sha256 == DIGEST


async def test_the_bar_moves_at_most_ten_times_a_second(downloads: Downloads) -> None:
    told: list[int] = []
    await downloads.fetch(progress=lambda done, total: told.append(done))
    assert told == sorted(told)
    assert 2 <= len(told) <= 12  # it takes far less than a second


def test_the_names_beside_a_target_do_not_look_like_models(tmp_path: Path) -> None:
    from manager.downloads.part import Part

    part = Part(tmp_path / "a.gguf")
    assert part.path.suffix == ".part"
    assert part.note.suffix == ".json"
    assert part.path.parent == part.note.parent == tmp_path
