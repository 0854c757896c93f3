"""What a model writes stays text, the page loads nothing from elsewhere, and the key is in no address."""

from __future__ import annotations

import re

from playwright.sync_api import Page

from tests.e2e.service import Service
from tests.routes.stage import Fake
from tests.web.browser import expect
from tests.web.conftest import StartStaged, Visit
from tests.web.test_chat import ask, done

HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    '<svg onload="window.hacked=1"></svg>',
    "<iframe src=javascript:window.parent.hacked=1></iframe>",
    "[click](javascript:window.hacked=1)",
    "![pixel](https://evil.example/pixel.png)",
    '<a href="data:text/html,<script>1</script>">a</a>',
    "$\\href{javascript:window.hacked=1}{x}$",
    "```html\n<script>window.hacked=1</script>\n```",
    "<style>*{display:none}</style>",
    "<form action=https://evil.example><button>send</button></form>",
)


def hacked(page: Page) -> object:
    return page.evaluate("() => window.hacked ?? null")


def test_whatever_a_model_writes_is_shown_and_never_done(visit: Visit, fake: Fake, start_staged: StartStaged) -> None:
    asked: list[str] = []
    with start_staged() as staged:
        visitor = visit(staged, staged.key)
        visitor.context.on("request", lambda request: asked.append(request.url))
        page = visitor.open("chat")
        for text in HOSTILE:
            answer = ask(page, text)
            done(answer)
            assert hacked(page) is None, text
        conversation = page.get_by_role("region", name="Conversation")
        for tag in (
            "script",
            "iframe",
            "svg[onload]",
            "style",
            "form",
            "img[src^=http]",
            "a[href^=javascript]",
            "a[href^=data]",
        ):
            expect(conversation.locator(tag)).to_have_count(0)
        expect(conversation).to_contain_text("<script>window.hacked=1</script>")
        expect(conversation).to_contain_text("<img src=x onerror=window.hacked=1>")
        visitor.picture(page, "chat-hostile")
        for link in conversation.locator("a[href]").all():
            if (link.get_attribute("target") or "") == "_blank":
                assert "noopener" in (link.get_attribute("rel") or "")
        elsewhere = [url for url in asked if not url.startswith((staged.url, "data:", "blob:"))]
        assert not elsewhere
        assert not [url for url in asked if "sk-lh-" in url]
        assert staged.key not in staged.log


def test_the_policy_holds_against_what_would_break_it(service: Service, visit: Visit) -> None:
    visitor = visit(service, service.key)
    visitor.mishaps.expect("CSP|Content Security Policy|Refused|violates|/x\\)$")
    page = visitor.open("settings")
    expect(page.get_by_role("heading").first).to_be_visible()
    page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'window.hacked = 1';
          document.body.append(script);
          const holder = document.createElement('div');
          holder.innerHTML = '<img src=x onerror="window.hacked = 1">';
          document.body.append(holder);
        }"""
    )
    refused = page.evaluate("() => fetch('https://evil.example/').then(() => 'let out', (error) => String(error))")
    assert refused.startswith("TypeError")
    assert hacked(page) is None
    assert any(re.search("CSP: script-src", text) for text in visitor.mishaps.seen)


def test_the_first_load_is_small(service: Service, visit: Visit) -> None:
    page = visit(service, service.key).open("chat")
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    sizes = page.evaluate(
        """() => [performance.getEntriesByType('navigation'), performance.getEntriesByType('resource')].flat()
          .filter((one) => ['navigation', 'script', 'link', 'css', 'img', 'other'].includes(one.initiatorType))
          .map((one) => [one.name, one.encodedBodySize])"""
    )
    assert {"js", "css"} <= {name.rpartition(".")[2] for name, _ in sizes}
    assert sum(size for _, size in sizes) < 250_000, sizes
