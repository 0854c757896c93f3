"""Models: what runs and in which memory, loading and unloading, pins, downloads; the same in every tab."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page

from tests.e2e.service import Service
from tests.fakes.hub import Fault, Hub
from tests.routes.stage import EMPTY_GGUF, Fake, Stage
from tests.web.browser import expect, serious_faults
from tests.web.conftest import StartStaged, Visit

REPO = "org/small-GGUF"
FILE = "small-Q4_K_M.gguf"


def model(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name, exact=True)


def state(page: Page, name: str) -> Locator:
    return model(page, name).locator("[data-state]")


def test_a_model_is_loaded_and_unloaded_and_every_tab_sees_it(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    one, two = visitor.open("models"), visitor.open("models")
    expect(state(two, "smol-cold")).to_have_attribute("data-state", "stopped")
    model(one, "smol-cold").get_by_role("button", name="Load smol-cold").click()
    for page in (one, two):
        expect(state(page, "smol-cold")).to_have_attribute("data-state", "ready")
    memory = two.get_by_role("region", name="Memory")
    expect(memory).to_contain_text("smol-cold")
    expect(model(two, "smol-cold")).to_contain_text(re.compile(r"\d+ MiB"))
    expect(model(two, "smol-cold")).to_contain_text(re.compile(r"unload|goes", re.IGNORECASE))  # in the time of its ttl
    visitor.picture(two, "models-loaded")
    assert not serious_faults(two)
    model(two, "smol-cold").get_by_role("button", name="Unload smol-cold").click()
    for page in (one, two):
        expect(state(page, "smol-cold")).to_have_attribute("data-state", "stopped")
    expect(memory).not_to_contain_text("smol-cold")


def test_what_a_load_would_take_is_told_before_it_is_pressed(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    page = visitor.open("models/smol-cold")
    details = model(page, "smol-cold")
    expect(details).to_contain_text("smol.gguf")
    expect(details).to_contain_text(re.compile("weights|KV", re.IGNORECASE))
    visitor.picture(page, "models-details")
    assert not serious_faults(page)


def test_a_model_that_goes_for_another_is_named_before(visit: Visit, stage: Stage, start_staged: StartStaged) -> None:
    for name in ("alpha", "beta"):
        stage.model(name)
    with start_staged(LLAMAHERD_SCHEDULING__MOST_LOADED="1") as staged:
        page = visit(staged, staged.key).open("models")
        model(page, "alpha").get_by_role("button", name="Load alpha").click()
        expect(state(page, "alpha")).to_have_attribute("data-state", "ready")
        model(page, "beta").get_by_role("button", name="Load beta").click()
        question = model(page, "beta").get_by_role("group", name="Before it is done")
        expect(question).to_contain_text("alpha")
        expect(state(page, "alpha")).to_have_attribute("data-state", "ready")
        question.get_by_role("button", name=re.compile("^Load")).click()
        expect(state(page, "beta")).to_have_attribute("data-state", "ready")
        expect(state(page, "alpha")).to_have_attribute("data-state", "stopped")


def test_progress_of_a_load_and_why_one_failed(
    visit: Visit, stage: Stage, fake: Fake, start_staged: StartStaged
) -> None:
    fake.close_gate(load_progress=(0.4,))
    stage.model("broken").knobs(exit_during_load={"after": 0, "code": 1, "lines": ["E no such tensor"]})
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("status of 503")
        page = visitor.open("models")
        model(page, "parrot").get_by_role("button", name="Load parrot").click()
        expect(state(page, "parrot")).to_have_text(re.compile(r"loading \d+ %"))
        fake.open_gate()
        expect(state(page, "parrot")).to_have_attribute("data-state", "ready")
        model(page, "broken").get_by_role("button", name="Load broken").click()
        expect(state(page, "broken")).to_have_attribute("data-state", "failed")
        expect(model(page, "broken")).to_contain_text("no such tensor")
        visitor.picture(page, "models-failed")
        assert not serious_faults(page)


def test_a_pin_is_kept_in_models_json(visit: Visit, stage: Stage, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        page = visit(staged, staged.key).open("models")
        pin = model(page, "parrot").get_by_role("button", name="Keep parrot loaded")
        pin.click()
        expect(pin).to_have_attribute("aria-pressed", "true")
        assert '"pinned": true' in stage.models_file.read_text()
        pin.click()
        expect(pin).to_have_attribute("aria-pressed", "false")
        assert '"pinned": true' not in stage.models_file.read_text()
    assert not fake.starts()


def test_a_model_is_fetched_with_progress_and_listed(
    visit: Visit, stage: Stage, hub: Hub, start_staged: StartStaged
) -> None:
    hub.add_repository(REPO, {FILE: EMPTY_GGUF + bytes(3_000_000)})
    (path,) = [path for path in hub.files if path.endswith(FILE)]
    hub.fail(path, Fault(stall_after=1_000_000))
    with start_staged(LLAMAHERD_HUB__ENDPOINT=hub.address) as staged:
        visitor = visit(staged, staged.key)
        visitor.mishaps.expect("status of 4")
        page = visitor.open("models")
        page.get_by_role("button", name="Add a model").first.click()
        page.get_by_role("textbox", name=re.compile("^Hub name or address")).fill(f"{REPO}:Q4_K_M")
        page.get_by_role("button", name="Fetch it").click()
        download = page.get_by_role("article", name=re.compile("^Download of"))
        expect(download.get_by_role("progressbar")).to_be_visible()
        expect(download).to_contain_text(re.compile(r"[\d.]+ (KiB|MiB)"))
        visitor.picture(page, "models-download")
        assert not serious_faults(page)
        download.get_by_role("button", name="Cancel").click()
        expect(download).to_contain_text(re.compile("cancelled", re.IGNORECASE))
        download.get_by_role("button", name=re.compile("^(Go on|Try again)")).click()
        expect(model(page, "small-Q4_K_M")).to_be_visible()
    assert "small-Q4_K_M" in stage.models_file.read_text()
