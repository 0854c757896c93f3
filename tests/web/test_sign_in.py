"""The way in: a key is asked for, kept in the browser and nowhere else, and shared by the tabs."""

from __future__ import annotations

import pytest

from tests.e2e.service import Service
from tests.web.browser import expect, serious_faults
from tests.web.conftest import Visit

REFUSED = r"status of 401"


def test_a_wrong_key_is_refused_with_the_services_words_and_the_right_one_opens_the_page(
    service: Service, visit: Visit
) -> None:
    visitor = visit(service)
    visitor.mishaps.expect(REFUSED)
    page = visitor.open()
    expect(page.get_by_role("heading", name="llamaherd")).to_be_visible()
    assert not serious_faults(page)
    visitor.picture(page, "sign-in")
    page.get_by_label("API key").fill("sk-lh-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Incorrect API key")
    page.get_by_label("API key").fill(service.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(6)
    assert service.key not in page.url
    page.reload()
    expect(page.get_by_role("link", name="Models")).to_be_visible()


def test_tabs_sign_in_and_out_together(service: Service, visit: Visit) -> None:
    visitor = visit(service)
    visitor.mishaps.expect(REFUSED)
    one, two = visitor.open("models"), visitor.open("settings")
    one.get_by_label("API key").fill(service.key)
    one.get_by_role("button", name="Sign in").click()
    for page in (one, two):
        expect(page.get_by_role("link", name="Keys")).to_be_visible()
    two.get_by_role("button", name="Sign out").click()
    for page in (one, two):
        expect(page.get_by_label("API key")).to_be_visible()
    assert two.evaluate("() => Object.values(localStorage).join()").find("sk-lh-") == -1


def test_a_key_for_inference_sees_chat_and_its_own_settings_only(service: Service, visit: Visit) -> None:
    page = visit(service, service.inference_key).open("models")
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links).to_have_count(2)
    assert links.all_inner_texts() == ["Chat", "Settings"]


@pytest.mark.parametrize("where", ["chat", "models", "activity", "logs", "keys", "settings"])
def test_no_page_has_a_serious_fault_and_each_fits_a_phone(service: Service, visit: Visit, where: str) -> None:
    visitor = visit(service, service.key)
    page = visitor.open(where)
    expect(page.get_by_role("main").get_by_role("heading").first).to_be_visible()
    assert not serious_faults(page)
    visitor.picture(page, where)
    page.emulate_media(color_scheme="dark")
    assert not serious_faults(page)
