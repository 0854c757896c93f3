"""Logs, keys and settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Locator, Page

from tests.e2e.service import Service
from tests.routes.stage import Fake, Stage
from tests.web.browser import expect, serious_faults
from tests.web.client import status_of
from tests.web.conftest import StartStaged, Visit


def lines(page: Page) -> Locator:
    return page.get_by_role("region", name="Lines of the log")


# logs


def test_logs_are_followed_filtered_paused_and_saved(
    visit: Visit, fake: Fake, start_staged: StartStaged, tmp_path: Path
) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("logs")
        expect(lines(page)).to_contain_text("listening")
        page.get_by_role("switch", name="Requests").check()
        status_of(staged, "GET", "/v1/models/no-such-model")
        expect(lines(page)).to_contain_text("no-such-model")
        page.get_by_role("searchbox", name=re.compile("^Filter")).fill("/no-such-\\w+/")
        expect(lines(page)).not_to_contain_text("listening")
        expect(lines(page)).to_contain_text("no-such-model")
        page.get_by_role("searchbox", name=re.compile("^Filter")).fill("")
        visitor.picture(page, "logs-service")
        assert not serious_faults(page)

        page.get_by_role("button", name="Pause").click()
        status_of(staged, "GET", "/v1/models/while-paused")
        status_of(staged, "GET", "/v1/models/while-paused")
        expect(page.get_by_role("button", name=re.compile("Resume|Go on"))).to_be_visible()
        expect(page.get_by_role("main")).to_contain_text(re.compile(r"\d+ (more|new)"))
        expect(lines(page)).not_to_contain_text("while-paused")
        page.get_by_role("button", name=re.compile("Resume|Go on")).click()
        expect(lines(page)).to_contain_text("while-paused")

        with page.expect_download() as saved:
            page.get_by_role("button", name="Download what is kept").click()
        saved.value.save_as(tmp_path / "log.txt")
        assert "listening" in (tmp_path / "log.txt").read_text()
    assert not fake.starts()


def test_the_log_of_a_model_shows_each_of_its_lives(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    page = visitor.open("logs/smol-logged")
    models = visitor.open("models")
    for _ in range(2):
        models.get_by_role("button", name="Load smol-logged").click()
        models.get_by_role("button", name="Unload smol-logged").click()
        expect(models.get_by_role("button", name="Load smol-logged")).to_be_visible()
    expect(lines(page)).to_contain_text("llama")
    expect(lines(page).get_by_text(re.compile("life|process|start", re.IGNORECASE)).first).to_be_visible()


# keys


def test_a_key_is_made_shown_once_limited_and_revoked(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    one, two = visitor.open("keys"), visitor.open("keys")
    one.get_by_role("button", name="Create a key").click()
    one.get_by_label("Name", exact=True).fill("laptop of Ada")
    one.get_by_role("button", name="Create the key").click()
    expect(one.get_by_role("main")).to_contain_text(re.compile(r"sk-lh-"))
    token = re.search(r"sk-lh-[\w-]{43}", one.get_by_role("main").inner_text())
    assert token
    visitor.picture(one, "keys-made")
    assert not serious_faults(one)
    assert status_of(service, "GET", "/v1/models", key=token[0]) == 200
    assert status_of(service, "GET", "/admin/models", key=token[0]) == 403
    expect(two.get_by_role("listitem").filter(has_text="laptop of Ada")).to_be_visible()
    assert token[0] not in two.get_by_role("main").inner_text()
    one.get_by_role("button", name="It is copied").click()
    expect(one.get_by_role("main")).not_to_contain_text("sk-lh-")

    card = one.get_by_role("listitem").filter(has_text="laptop of Ada")
    card.get_by_role("button", name="Edit laptop of Ada").click()
    card.get_by_label("Requests a minute").fill("7")
    card.get_by_role("button", name=re.compile("^Save")).click()
    expect(two.get_by_role("listitem").filter(has_text="laptop of Ada")).to_contain_text("7")

    card.get_by_role("button", name="Revoke laptop of Ada").click()
    card.get_by_role("textbox").fill("laptop of Ada")
    card.get_by_role("button", name="Revoke the key").click()
    for page in (one, two):
        expect(page.get_by_role("listitem").filter(has_text="laptop of Ada")).to_have_count(0)
    assert status_of(service, "GET", "/v1/models", key=token[0]) == 401


def test_a_mistake_in_a_key_is_told_at_its_field(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    visitor.mishaps.expect("status of 4")
    page = visitor.open("keys")
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name", exact=True).fill("full")
    page.get_by_role("button", name="Create the key").click()
    expect(page.get_by_role("alert").filter(has_text="full")).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_have_attribute("aria-invalid", "true")


# settings


def test_every_setting_tells_where_it_comes_from(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    page = visitor.open("settings/service")
    page.get_by_role("searchbox", name="Search the settings").fill("drain_timeout")
    expect(page.get_by_role("main")).to_contain_text("LLAMAHERD_SERVER__DRAIN_TIMEOUT")
    expect(page.get_by_role("main")).not_to_contain_text("max_body")
    page.get_by_role("searchbox", name="Search the settings").fill("")
    page.get_by_role("switch", name="Only what is set").click()
    expect(page.get_by_role("main")).not_to_contain_text("max_body")
    visitor.picture(page, "settings-service")
    assert not serious_faults(page)


def test_models_json_is_checked_before_it_is_saved(
    visit: Visit, stage: Stage, fake: Fake, start_staged: StartStaged
) -> None:
    before = stage.models_file.read_text()
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("settings/models")
        field = page.get_by_role("textbox", name="models.json")
        expect(field).to_contain_text("parrot")
        field.click()
        write(page, '{"parrot": {"params": {"model": "parrot.gguf", "tempreature": 1}}}')
        mistakes = page.get_by_role("region", name="Mistakes")
        expect(mistakes).to_contain_text("tempreature")
        expect(page.get_by_role("button", name=re.compile("^Save"))).to_be_disabled()
        visitor.picture(page, "settings-mistake")
        assert not serious_faults(page)
        assert stage.models_file.read_text() == before

        write(
            page, json.dumps({"parrot": {"params": {"model": "parrot.gguf"}, "description": "It repeats."}}, indent=1)
        )
        expect(page.get_by_text("No mistakes")).to_be_visible()
        page.get_by_role("button", name=re.compile("^Save")).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("It repeats.")
        dialog.get_by_role("button", name="Save", exact=True).click()
        expect(dialog).to_have_count(0)
        assert json.loads(stage.models_file.read_text())["parrot"]["description"] == "It repeats."
        models = visitor.open("models")
        expect(models.get_by_role("article", name="parrot")).to_contain_text("It repeats.")
    assert not fake.starts()


def write(page: Page, text: str) -> None:
    """Replace all of the editor's text; typed, it would close brackets by itself."""
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def test_a_file_that_somebody_else_saved_meanwhile_is_not_overwritten(
    visit: Visit, stage: Stage, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("status of 409")
        page = visitor.open("settings/models")
        page.get_by_role("textbox", name="models.json").click()
        write(page, '{"parrot": {"params": {"model": "parrot.gguf"}, "description": "mine"}}')
        expect(page.get_by_text("No mistakes")).to_be_visible()
        theirs = '{"parrot": {"params": {"model": "parrot.gguf"}, "description": "theirs"}}'
        stage.models_file.write_text(theirs)
        page.get_by_role("button", name=re.compile("^Save")).click()
        page.get_by_role("dialog").get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_role("alert").filter(has_text="theirs")).to_be_visible()
        assert stage.models_file.read_text() == theirs
        page.get_by_role("button", name=re.compile("^Take theirs")).click()
        expect(page.get_by_role("textbox", name="models.json")).to_contain_text("theirs")
    assert not fake.starts()
