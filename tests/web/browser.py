"""Debian's Chromium, driven by Playwright, and a page that notes everything that went wrong in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    StorageState,
    expect,
    sync_playwright,
)

ROOT: Final = Path(__file__).parents[2]
AXE: Final = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
DESKTOP: Final = (1280, 800)
PHONE: Final = (390, 844)
# The last of them: what a closed network would refuse by the dozen.
FLAGS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# Told to the console by the browser itself, with the address that was refused.
NOT_LET: Final = """
document.addEventListener('securitypolicyviolation', (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""
# No animation that has an end is under way.
AT_REST: Final = """
() => document.getAnimations().every(
  (one) => one.playState !== 'running' || one.effect.getTiming().iterations === Infinity)
"""
PATIENCE: Final = 20.0  # seconds


def chromium() -> str | None:
    return shutil.which("chromium")


@contextmanager
def started() -> Iterator[Browser]:
    """A browser without a screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Mishaps:
    """What went wrong in the pages of a context: errors on their consoles, exceptions, what the policy forbade."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._expected: list[re.Pattern[str]] = []

    def watch(self, page: Page) -> None:
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.seen.append(f"exception: {error}"))

    def expect(self, pattern: str) -> None:
        """Errors that match are no mishap: the test provokes them."""
        self._expected.append(re.compile(pattern))

    def check(self) -> None:
        left = [text for text in self.seen if not any(pattern.search(text) for pattern in self._expected)]
        assert not left, "\n".join(left)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.seen.append(f"{message.type}: {message.text} ({message.location.get('url')})")


class Visitor:
    """Somebody with a browser: one profile, any number of tabs."""

    def __init__(self, context: BrowserContext, url: str, pictures: Path) -> None:
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(NOT_LET)
        self.context = context
        self.url = url
        self.mishaps = Mishaps()
        self._pictures = pictures

    def open(self, where: str = "") -> Page:
        """A tab on that page, as `models`."""
        page = self.context.new_page()
        self.mishaps.watch(page)
        page.goto(f"{self.url}/#/{where}")
        return page

    def picture(self, page: Page, name: str) -> None:
        """Screenshots of what is shown now: on a desktop in light and dark, and on a phone."""
        size = page.viewport_size
        for width, height, scheme in ((*DESKTOP, "light"), (*DESKTOP, "dark"), (*PHONE, "light")):
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            kind = "phone" if (width, height) == PHONE else "desktop"
            page.wait_for_function(AT_REST)
            page.screenshot(path=self._pictures / f"{name}-{kind}-{scheme}.png")
            if kind == "phone":
                assert not overflows(page), f"{name} is wider than a phone"
        page.emulate_media(color_scheme="light")
        if size is not None:
            page.set_viewport_size(size)


def signed_in(url: str, key: str) -> StorageState:
    """The profile of a browser that has signed in there."""
    return {"cookies": [], "origins": [{"origin": url, "localStorage": [{"name": "llamaherd.key", "value": key}]}]}


def overflows(page: Page) -> bool:
    """Whether the page is wider than the window."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth > window.innerWidth"))


def serious_faults(page: Page) -> list[str]:
    """What axe-core finds that would keep somebody out."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]


def texts(locator: Locator) -> list[str]:
    return [text.strip() for text in locator.all_inner_texts()]


def eventually(condition: Callable[[], bool], page: Page) -> None:
    """Wait for what only Python can see; AssertionError where it never comes."""
    for _ in range(int(PATIENCE / 0.02)):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it never came true")


__all__ = ["Visitor", "chromium", "eventually", "expect", "serious_faults", "signed_in", "started", "texts"]
