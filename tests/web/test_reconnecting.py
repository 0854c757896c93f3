"""A service that goes and comes back, one without keys, and one on another host than the page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from routes.web_app import BUILT
from tests.e2e.service import WITHOUT_KEYS, running
from tests.routes.stage import Fake, Stage
from tests.web.browser import expect
from tests.web.conftest import StartStaged, Visit
from tests.web.test_chat import ask, done
from tests.web.test_models_page import model, state

AWAY = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|status of 503"


def test_the_page_says_that_the_service_is_away_and_goes_on_when_it_is_back(
    visit: Visit, stage: Stage, fake: Fake
) -> None:
    variables = stage.variables()
    with running(stage.folder, variables) as first:
        visitor = visit(first, first.key)
        visitor.mishaps.expect(AWAY)
        page, chat = visitor.open("models"), visitor.open("chat")
        model(page, "parrot").get_by_role("button", name="Load parrot").click()
        expect(state(page, "parrot")).to_have_attribute("data-state", "ready")
        done(ask(chat, "before it went"))
    trouble = page.get_by_text("The service does not answer. Trying again")
    expect(trouble).to_be_visible()
    expect(model(page, "parrot")).to_be_visible()  # what was known stays
    visitor.picture(page, "away")
    with running(stage.folder, variables, port=first.port, keys=first.keys) as second:
        expect(trouble).to_have_count(0)
        expect(state(page, "parrot")).to_have_attribute("data-state", "stopped")
        done(ask(chat, "after it came back"))
        expect(state(page, "parrot")).to_have_attribute("data-state", "ready")
        assert second.started("parrot") == 1


def test_a_key_that_is_revoked_ends_at_the_sign_in(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    with start_staged() as staged:
        one, two = visit(staged, staged.key), visit(staged, staged.admin_key)
        two.mishaps.expect("status of 401|ERR_")
        models, keys = two.open("models"), one.open("keys")
        expect(model(models, "parrot")).to_be_visible()
        card = keys.get_by_role("listitem").filter(has=keys.get_by_role("heading", name=re.compile("^admin ")))
        card.get_by_role("button", name="Revoke admin").click()
        card.get_by_role("textbox").fill("admin")
        card.get_by_role("button", name="Revoke the key").click()
        expect(models.get_by_label("API key")).to_be_visible()
        expect(models.get_by_role("alert")).to_be_visible()
    assert not fake.starts()


def test_a_service_without_keys_needs_none_until_the_first_is_made_on_its_page(
    visit: Visit, stage: Stage, fake: Fake
) -> None:
    with running(stage.folder, stage.variables(), keys=WITHOUT_KEYS) as open_one:
        visitor = visit(open_one)
        visitor.mishaps.expect("status of 401|ERR_")
        page, other = visitor.open("keys"), visit(open_one)
        other.mishaps.expect("status of 401|ERR_")
        stranger = other.open("models")
        expect(model(stranger, "parrot")).to_be_visible()
        visitor.picture(page, "keys-none")
        page.get_by_label("Name", exact=True).fill("mine")
        page.get_by_role("button", name="Create the first key").click()
        expect(page.get_by_role("main")).to_contain_text(re.compile("sk-lh-[\\w-]{43}"))
        expect(page.get_by_role("listitem").filter(has_text="mine")).to_be_visible()
        page.reload()
        expect(page.get_by_role("listitem").filter(has_text="mine")).to_be_visible()  # it is signed in with it
        expect(stranger.get_by_label("API key")).to_be_visible()
    assert not fake.starts()


@pytest.fixture
def host() -> Iterator[str]:
    """The page on another host, as one for static files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(BUILT))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_page_on_another_host_asks_for_address_and_key_and_works_where_it_is_allowed(
    visit: Visit, fake: Fake, start_staged: StartStaged, host: str
) -> None:
    with start_staged(LLAMAHERD_CORS__ALLOWED_ORIGINS=host) as staged:
        visitor = visit(staged)
        visitor.mishaps.expect("status of 404")  # there is no /health at the host
        visitor.url = host
        page = visitor.open("chat")
        page.get_by_label("Address of the service").fill(staged.url)
        page.get_by_label("API key").fill(staged.key)
        page.get_by_role("button", name="Sign in").click()
        done(ask(page, "hello from afar"))
        page.reload()
        expect(page.get_by_role("article", name=re.compile("^Answer of"))).to_contain_text("hello from afar")
        page.goto(f"{host}/#/models")
        expect(state(page, "parrot")).to_have_attribute("data-state", "ready")
    assert fake.requests()


def test_a_page_that_the_service_does_not_allow_is_told_what_to_set(
    visit: Visit, fake: Fake, start_staged: StartStaged, host: str
) -> None:
    with start_staged() as staged:
        visitor = visit(staged)
        visitor.mishaps.expect("status of 404|CORS|ERR_FAILED|401")
        visitor.url = host
        page = visitor.open()
        page.get_by_label("Address of the service").fill(staged.url)
        page.get_by_label("API key").fill(staged.key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("cors.allowed_origins")
    assert not fake.starts()
