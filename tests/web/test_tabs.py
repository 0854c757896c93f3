"""Several tabs, keys that change under them, and a service that hangs: nothing that was typed is lost."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page

from tests.e2e.service import Service
from tests.routes.stage import Fake
from tests.web.browser import expect
from tests.web.conftest import StartStaged, Visit
from tests.web.test_models_page import model

# A browser without a screen shows all its tabs.
HIDE = """
(hidden) => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event('visibilitychange'));
}
"""
TROUBLE = "The service does not answer. Trying again"
# What the browser itself tells of connections that were refused or ended.
AWAY = "status of 401|ERR_"


def away(page: Page, milliseconds: int = 11_000) -> None:
    """Somebody looks at something else for that long."""
    page.evaluate(HIDE, True)
    page.clock.run_for(milliseconds)


@contextmanager
def hanging(service: Service) -> Iterator[None]:
    """The service has its connections and says nothing."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


def test_eight_tabs_work_and_each_goes_on_when_it_is_seen_again(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect(AWAY)
        visitor.context.clock.install()
        tabs = []
        for _ in range(8):
            tabs.append(visitor.open("models"))
            expect(model(tabs[-1], "parrot")).to_be_visible()
            away(tabs[-1])
        pin = model(tabs[7], "parrot").get_by_role("button", name="Keep parrot loaded")
        pin.click()
        expect(pin).to_have_attribute("aria-pressed", "true")
        tabs[0].evaluate(HIDE, False)
        first = model(tabs[0], "parrot").get_by_role("button", name="Keep parrot loaded")
        expect(first).to_have_attribute("aria-pressed", "true")
        expect(tabs[0].get_by_text(TROUBLE)).to_have_count(0)


def test_a_service_that_hangs_is_noticed_and_the_page_goes_on_when_it_is_back(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect(AWAY)
        visitor.context.clock.install()
        page = visitor.open("models")
        expect(model(page, "parrot")).to_be_visible()
        trouble = page.get_by_text(TROUBLE)
        top = model(page, "parrot").bounding_box()
        with hanging(staged):
            page.clock.run_for(38_000)
            expect(trouble).to_have_count(0)
            page.clock.run_for(4_000)
            expect(trouble).to_be_visible()
            assert model(page, "parrot").bounding_box() == top  # nothing has moved
        page.clock.run_for(60_000)
        expect(trouble).to_have_count(0)


def test_an_unsaved_draft_outlives_a_key_that_is_replaced_in_another_tab_and_one_that_is_revoked(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        visitor, other = visit(staged, staged.admin_key), visit(staged, staged.key)
        visitor.mishaps.expect(AWAY)
        page = visitor.open("settings/models")
        text = page.get_by_role("textbox", name="models.json")
        text.click()
        page.keyboard.press("Control+End")
        page.keyboard.type("MARK")
        keys = visitor.open("keys")
        keys.get_by_role("button", name="Rotate admin").click()
        keys.get_by_role("radio", name=re.compile("at once")).check()
        keys.get_by_role("button", name=re.compile("^Rotate, and")).click()
        expect(keys.get_by_role("main")).to_contain_text("This browser uses the new one now.")
        expect(page.get_by_text("not saved", exact=True)).to_be_visible()
        expect(text).to_contain_text("MARK")
        expect(page.get_by_role("dialog")).to_have_count(0)

        revoking = other.open("keys")
        card = revoking.get_by_role("listitem").filter(has=revoking.get_by_role("heading", name=re.compile("^admin ")))
        card.get_by_role("button", name="Revoke admin").click()
        card.get_by_role("textbox").fill("admin")
        card.get_by_role("button", name="Revoke the key").click()
        asked = page.get_by_role("dialog", name="Sign in again")
        expect(asked.get_by_role("alert")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        visitor.picture(page, "sign-in-again")
        asked.get_by_label("API key").fill(staged.key)
        asked.get_by_role("button", name="Sign in").click()
        expect(asked).to_have_count(0)
        expect(text).to_contain_text("MARK")
    assert not fake.starts()


def test_a_sign_in_that_finds_no_service_leaves_the_form_as_it_was(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect(AWAY)
        page = visitor.open("nonsense")
        expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
        visitor.picture(page, "no-such-page")
        page.route("**/v1/key", lambda route: route.abort())
        page.reload()
        page.get_by_role("button", name="Use another address or key").click()
        page.get_by_label("API key").fill("sk-lh-typed")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("No answer from")
        expect(page.get_by_label("API key")).to_have_value("sk-lh-typed")
        page.unroute("**/v1/key")
        page.reload()
        expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    assert not fake.starts()
