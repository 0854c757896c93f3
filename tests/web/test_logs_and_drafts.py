"""Logs of what comes and goes, and what was written in models.json and not saved."""

from __future__ import annotations

import re

from playwright.sync_api import Dialog

from tests.routes.stage import Fake, Stage
from tests.web.browser import expect, serious_faults
from tests.web.client import json_of, status_of
from tests.web.conftest import StartStaged, Visit
from tests.web.test_keys_together import too_wide
from tests.web.test_other_pages import lines, write


def test_lines_of_requests_are_shown_where_they_are_wanted(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        page = visit(staged, staged.key).open("logs")
        expect(lines(page)).to_contain_text("listening")
        status_of(staged, "GET", "/v1/models/no-such-model")
        page.get_by_role("switch", name="Requests").check()
        expect(lines(page)).to_contain_text("no-such-model")
        page.get_by_role("switch", name="Requests").uncheck()
        expect(lines(page)).to_contain_text("listening")
        expect(lines(page)).not_to_contain_text("no-such-model")
        expect(lines(page)).not_to_contain_text("lost")
    assert not fake.starts()


def test_the_log_of_no_model_says_so(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("status of 404")
        page = visitor.open("logs/nope")
        expect(page.get_by_role("heading", name="There is no model “nope”")).to_be_visible()
        assert not serious_faults(page)
    assert not fake.starts()


def test_a_model_that_goes_while_it_is_followed_leaves_its_log_and_can_come_back(
    visit: Visit, stage: Stage, fake: Fake, start_staged: StartStaged
) -> None:
    stage.model("goes")
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("status of 404")
        json_of(staged, "/admin/models/goes/load", "POST")
        page = visitor.open("logs/goes")
        expect(lines(page)).to_contain_text("begins")
        stage.forget("goes")
        json_of(staged, "/admin/reload", "POST")
        expect(page.get_by_role("alert")).to_contain_text("was removed")
        expect(lines(page)).to_contain_text("begins")
        stage.model("goes")
        json_of(staged, "/admin/reload", "POST")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    assert not fake.starts()


def test_a_draft_of_models_json_is_there_again(
    visit: Visit, stage: Stage, fake: Fake, start_staged: StartStaged
) -> None:
    before = stage.models_file.read_text()
    with start_staged() as staged:
        page = visit(staged, staged.key).open("settings/models")
        field = page.get_by_role("textbox", name="models.json")
        field.click()
        write(page, '{"parrot": {"params": {"model": "parrot.gguf"}, "description": "half written"}}')
        expect(page.get_by_text("not saved", exact=True)).to_be_visible()
        page.get_by_role("link", name="Models", exact=True).click()
        expect(page.get_by_role("article", name="parrot")).to_be_visible()
        page.get_by_role("link", name="Settings", exact=True).click()
        page.get_by_role("link", name=re.compile(r"models\.json")).click()
        expect(field).to_contain_text("half written")
        expect(page.get_by_text("No mistakes")).to_be_visible()

        asked: list[str] = []

        def stay(dialog: Dialog) -> None:
            asked.append(dialog.type)
            dialog.dismiss()

        page.on("dialog", stay)
        page.close(run_before_unload=True)
        expect(field).to_contain_text("half written")
        assert asked == ["beforeunload"]
        assert stage.models_file.read_text() == before
        page.get_by_role("button", name="Revert").click()
        expect(field).not_to_contain_text("half written")
    assert not fake.starts()


def test_pages_are_no_wider_than_the_window(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        page = visit(staged, staged.key).open()
        for where in ("logs", "logs/parrot", "settings", "settings/programs", "settings/service", "settings/models"):
            page.goto(f"{staged.url}/#/{where}")
            expect(page.get_by_role("heading", level=1)).to_have_count(1)
            expect(page.get_by_text(re.compile("Fetching"))).to_have_count(0)
            for width in (320, 390, 900):
                page.set_viewport_size({"width": width, "height": 700})
                assert not too_wide(page), (where, width)
    assert not fake.starts()
