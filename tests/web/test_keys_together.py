"""Keys that several tabs change at once, and the forms in which that is done."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from tests.e2e.service import Service
from tests.routes.stage import Fake
from tests.web.browser import expect, serious_faults
from tests.web.client import json_of, status_of
from tests.web.conftest import StartStaged, Visit


def made(service: Service, name: str, **fields: Any) -> dict[str, Any]:
    return json_of(service, "/admin/keys", "POST", {"name": name, **fields})


def too_wide(page: Page) -> list[str]:
    """What is wider than its place, and scrolls without being there for the keyboard."""
    found: list[str] = page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll('main, main *')]
          .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.tabIndex < 0 && !one.closest('nav'))
          .filter((one) => one === document.documentElement || /auto|scroll/.test(getComputedStyle(one).overflowX))
          .map((one) => one.outerHTML.slice(0, 100))"""
    )
    return found


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has_text=name)


def test_two_tabs_that_edit_one_key_overwrite_nothing_of_each_other(
    visit: Visit, fake: Fake, start_staged: StartStaged
) -> None:
    with start_staged() as staged:
        key = made(staged, "shared", requests_per_minute=60)
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("ERR_CONNECTION_REFUSED")  # the service ends while the tabs still read the last change
        one, two = visitor.open("keys"), visitor.open("keys")
        for page in (one, two):
            card(page, "shared").get_by_role("button", name="Edit shared").click()
        one.get_by_label("Description").fill("of the laptop")
        two.get_by_label("Requests a minute").fill("5")
        two.get_by_role("button", name="Save").click()
        expect(two.get_by_role("button", name="Save")).to_have_count(0)
        told = one.get_by_role("status").filter(has_text="Somebody has changed this key")
        expect(told).to_contain_text("Requests a minute: 5, was 60")
        expect(one.get_by_label("Requests a minute")).to_have_value("60")
        assert not serious_faults(one)
        one.get_by_role("button", name="Show that in the form").click()
        expect(one.get_by_label("Requests a minute")).to_have_value("5")
        expect(one.get_by_label("Description")).to_have_value("of the laptop")
        expect(told).to_have_count(0)
        two.bring_to_front()
        card(two, "shared").get_by_role("button", name="Edit shared").click()
        two.get_by_label("Tokens a day").fill("1000")
        two.get_by_role("button", name="Save").click()
        expect(told).to_contain_text("Tokens a day: 1,000, was no limit")
        one.get_by_role("button", name="Save").click()
        expect(card(two, "shared")).to_contain_text("of the laptop")
        now = json_of(staged, f"/admin/keys/{key['id']}")
        assert (now["description"], now["requests_per_minute"], now["tokens_per_day"]) == ("of the laptop", 5, 1000)
    assert not fake.starts()


def test_a_form_that_is_closed_gives_the_focus_back(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        made(staged, "laptop")
        page = visit(staged, staged.key).open("keys")
        openers = [card(page, "laptop").get_by_role("button", name=f"{what} laptop") for what in ("Edit", "Rotate")]
        openers += [card(page, "laptop").get_by_role("button", name="Revoke laptop")]
        openers += [page.get_by_role("button", name="Create a key")]
        for opener in openers:
            for way in ("Escape", "Cancel"):
                opener.focus()
                page.keyboard.press("Enter")
                expect(opener).to_have_attribute("aria-expanded", "true")
                expect(opener).not_to_be_focused()
                if way == "Escape":
                    page.keyboard.press("Escape")
                else:
                    page.get_by_role("button", name="Cancel").click()
                expect(opener).to_have_attribute("aria-expanded", "false")
                expect(opener).to_be_focused()
    assert not fake.starts()


def test_a_key_that_leaked_is_rotated_at_once(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        key = made(staged, "leaked")
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("ERR_CONNECTION_REFUSED")  # as above
        page = visitor.open("keys")
        card(page, "leaked").get_by_role("button", name="Rotate leaked").click()
        page.get_by_label(re.compile("^at once")).check()
        assert not serious_faults(page)
        page.get_by_role("button", name=re.compile("end the old key at once")).click()
        expect(page.get_by_role("region", name="The key “leaked”")).to_be_focused()
        token = re.search(r"sk-lh-[\w-]{43}", page.get_by_role("main").inner_text())
        assert token
        assert status_of(staged, "GET", "/v1/models", key=key["key"]) == 401
        assert status_of(staged, "GET", "/v1/models", key=token[0]) == 200
        expect(card(page, "leaked")).not_to_contain_text("The old one ends")

        # Somebody else revokes it while it is still shown.
        json_of(staged, f"/admin/keys/{key['id']}", "DELETE")
        expect(page.get_by_role("main")).not_to_contain_text("sk-lh-")
    assert not fake.starts()


def test_a_name_that_is_taken_is_told_at_the_field(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        made(staged, "laptop")
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("status of 400")
        page = visitor.open("keys")
        page.get_by_role("button", name="Create a key").click()
        name = page.get_by_label("Name", exact=True)
        name.fill("laptop")
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_role("alert").filter(has_text="There is a key named 'laptop' already")).to_be_visible()
        expect(name).to_be_focused()
    assert not fake.starts()


@pytest.mark.parametrize("width", [320, 390, 900])
def test_no_form_of_a_key_is_wider_than_the_window(
    visit: Visit, fake: Fake, start_staged: StartStaged, width: int
) -> None:
    with start_staged() as staged:
        json_of(staged, f"/admin/keys/{made(staged, 'rotated')['id']}/rotate", "POST", {})
        name = "a-key-with-a-name-that-is-as-long-as-somebody-liked-" * 2
        key = made(staged, name[:100], models=["parrot"], tokens_per_day=1000)
        page = visit(staged, staged.key).open("keys")
        page.set_viewport_size({"width": width, "height": 844})
        for what in ("Edit", "Rotate", "Revoke"):
            card(page, key["id"]).get_by_role("button", name=re.compile(f"^{what} ")).click()
            expect(page.get_by_role("button", name="Cancel")).to_be_visible()
            assert not too_wide(page), what
            page.keyboard.press("Escape")
    assert not fake.starts()
