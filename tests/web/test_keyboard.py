"""The page without a mouse: by keys alone, to where the focus shows that they will go."""

from __future__ import annotations

import re

from playwright.sync_api import Page

from tests.routes.stage import Fake
from tests.web.browser import expect
from tests.web.conftest import StartStaged, Visit
from tests.web.test_models_page import state

# Which control has the focus, as a screen reader would name it.
FOCUSED = """
() => {
  const it = document.activeElement;
  return it.getAttribute('aria-label') ?? it.labels?.[0]?.textContent.trim() ?? it.textContent.trim();
}
"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the control has the focus."""
    for _ in range(60):
        if re.search(name, page.evaluate(FOCUSED)):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no Tab leads to {name!r}; it ended at {page.evaluate(FOCUSED)!r}")


def test_a_turn_is_asked_stopped_and_edited_by_keys(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    fake.hold_streams()
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("chat")
        tab_to(page, "^Message$")
        page.keyboard.type("one two three")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("four")
        page.keyboard.press("Enter")
        answer = page.get_by_role("article", name=re.compile("^Answer of"))
        expect(answer).to_have_attribute("aria-busy", "true")
        page.keyboard.press("Escape")
        expect(answer).to_have_attribute("aria-busy", "false")
        expect(answer).to_contain_text("topped")
        fake.release_streams()
        expect(page.get_by_role("textbox", name="Message")).to_be_focused()
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("textbox", name="Edit your message")).to_be_focused()
        page.keyboard.press("End")
        page.keyboard.type(" five")
        tab_to(page, "^Send")
        page.keyboard.press("Enter")
        mine = page.get_by_role("article", name="You")
        expect(mine).to_contain_text("five")
        expect(mine.get_by_text("2/2")).to_be_visible()
        expect(answer).to_contain_text("five")


def test_a_model_is_chosen_and_loaded_by_keys(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        page = visitor.open("chat")
        expect(page.get_by_role("textbox", name="Message")).to_be_visible()
        tab_to(page, "^Model(?!s)")
        page.keyboard.press("Enter")
        expect(page.get_by_role("combobox", name="Find a model")).to_be_focused()
        page.keyboard.type("parr")
        page.keyboard.press("Enter")
        expect(page.get_by_role("combobox", name="Find a model")).to_have_count(0)
        expect(page.get_by_role("button", name=re.compile("^Model.*parrot"))).to_be_focused()

        page.goto(f"{staged.url}/#/models")
        tab_to(page, "^Load parrot$")
        page.keyboard.press("Enter")
        expect(state(page, "parrot")).to_have_attribute("data-state", "ready")
        tab_to(page, "^Unload parrot$")
        page.keyboard.press("Enter")
        expect(state(page, "parrot")).to_have_attribute("data-state", "stopped")
    assert len(fake.starts()) == 1
