"""Activity: live requests and how they are cancelled, the history with its times, captures and their replay, charts."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.e2e.service import Service
from tests.routes.stage import Fake
from tests.web.browser import expect, serious_faults
from tests.web.client import status_of
from tests.web.conftest import StartStaged, Visit


def chat(service: Service, text: str, **more: object) -> int:
    """A client's request; returns the status."""
    body = json.dumps({"messages": [{"role": "user", "content": text}], **more})
    headers = {"Content-Type": "application/json", "Cookie": "session=abc123def456"}
    return status_of(service, "POST", "/v1/chat/completions", body, **headers)


def capture(page: Page) -> None:
    page.get_by_role("switch", name="Capture requests and answers").click()
    dialog = page.get_by_role("dialog")
    if dialog.count():
        dialog.get_by_role("button", name=re.compile("^(Turn|Switch|Capture|Start)")).click()
    expect(page.get_by_role("switch", name="Capture requests and answers")).to_be_checked()


def test_requests_come_into_the_history_with_their_times_and_a_picture_of_them(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    page = visitor.open("activity")
    expect(page.get_by_role("region", name="Ended")).to_be_visible()
    assert chat(service, "Name a colour.", model="smol", max_tokens=24, stream=True) == 200
    row = page.get_by_role("row").filter(has_text="/v1/chat/completions").first
    expect(row).to_contain_text("smol")
    expect(row).to_contain_text("ok")
    expect(row).to_contain_text("full")  # the name of the key
    expect(page.get_by_role("img", name=re.compile("^Tokens per second. Writing"))).to_be_visible()
    visitor.picture(page, "activity-history")
    assert not serious_faults(page)
    row.get_by_role("link").first.click()
    details = page.get_by_role("complementary")
    expect(details).to_contain_text("smol")
    expect(details).to_contain_text(re.compile("prompt", re.IGNORECASE))
    visitor.picture(page, "activity-details")
    assert not serious_faults(page)


def test_a_running_request_is_shown_and_cancelled(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    fake.hold_streams()
    statuses: list[int] = []
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("activity")
        client = threading.Thread(target=lambda: statuses.append(chat(staged, "one two three")))
        client.start()
        live = page.get_by_role("region", name="Running now")
        expect(live).to_contain_text("parrot")
        visitor.picture(page, "activity-live")
        live.get_by_role("button", name=re.compile("^Cancel the request")).first.click()
        live.get_by_role("button", name=re.compile("^Press again")).first.click()
        expect(live).to_contain_text("No request")
        client.join()
        expect(page.get_by_role("region", name="Ended")).to_contain_text("cancelled")
    assert statuses == [409]


def test_a_capture_is_asked_for_shows_both_sides_without_keys_and_can_be_sent_again(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("activity")
        assert chat(staged, "before the capture") == 200
        expect(page.get_by_role("row").filter(has_text="parrot")).to_have_count(1)
        capture(page)
        assert chat(staged, "say this again") == 200
        row = page.get_by_role("row").filter(has_text="parrot")
        expect(row).to_have_count(2)
        row.first.get_by_role("link").first.click()
        details = page.get_by_role("complementary")
        expect(details).to_contain_text("say this again")
        expect(details).to_contain_text("[redacted]")
        assert staged.key not in details.inner_text()
        assert "abc123def456" not in details.inner_text()
        details.get_by_role("button", name="Send again").click()
        expect(details).to_contain_text(re.compile("Now|Again"))
        visitor.picture(page, "activity-replay")
        assert not serious_faults(page)
        assert [one["body"]["messages"][0]["content"] for one in fake.requests()][1:] == ["say this again"] * 2
        page.goto(f"{staged.url}/#/activity/1")
        expect(page.get_by_role("complementary")).not_to_contain_text("before the capture")


def test_the_history_is_saved_and_cleared(visit: Visit, fake: Fake, start_staged: StartStaged, tmp_path: Path) -> None:
    with start_staged() as staged:
        page = visit(staged, staged.key).open("activity")
        assert chat(staged, "hello") == 200
        expect(page.get_by_role("row").filter(has_text="parrot")).to_have_count(1)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save as CSV").click()
        saved.value.save_as(tmp_path / "history.csv")
        head, row = (tmp_path / "history.csv").read_text().strip().splitlines()
        assert "model" in head
        assert "parrot" in row
        page.get_by_role("button", name=re.compile("^Clear")).click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile("^Clear")).click()
        expect(page.get_by_role("row").filter(has_text="parrot")).to_have_count(0)
    assert fake.requests()


@pytest.mark.parametrize("outcome", ["ok", "failed"])
def test_the_history_is_filtered_by_outcome(service: Service, visit: Visit, outcome: str) -> None:
    assert chat(service, "Name a colour.", model="smol", max_tokens=4) == 200
    assert chat(service, "Name a colour.", model="missing") == 503
    page = visit(service, service.key).open("activity")
    expect(page.get_by_role("row").filter(has_text="missing").first).to_be_visible()
    page.get_by_role("combobox", name="Outcome").select_option(label=outcome)
    shown, hidden = ("smol", "missing") if outcome == "ok" else ("missing", "smol")
    expect(page.get_by_role("row").filter(has_text=shown).first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text=re.compile(rf"\b{hidden}\b"))).to_have_count(0)
