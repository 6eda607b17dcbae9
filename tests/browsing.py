"""Pages in headless Chromium, for the tests of what `bardlet/web/` shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from bardlet.interop.html.chromium import program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MISSING = "is not installed, so that pages are not tested"
# none of them needs a sandbox of its own, a GPU, or the network
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"]
LOCAL = ("data", "blob", "about")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped where it, or playwright, is not installed."""
    path = program()
    if path is None:
        pytest.skip(f"Chromium {MISSING}")
    playwright = pytest.importorskip("playwright.sync_api", reason=f"playwright {MISSING}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Opens pages, each in a context of its own, and notes what they ask for and complain of."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.pages: list[Page] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def __call__(self, url: str, **context: Any) -> Page:
        """A page at an address; `context` has playwright's options, such as `viewport`,
        `color_scheme`, `locale`, `has_touch` or `is_mobile`."""
        options = {"locale": "en-US", "viewport": {"width": 1200, "height": 900}, **context}
        page = self.browser.new_context(**options).new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning")
                and self.complaints.append(message.text))  # fmt: skip
        self.pages.append(page)
        page.goto(url)
        return page

    def close(self) -> None:
        for page in self.pages:
            page.context.close()

    def check(self) -> None:
        """No page had an error or asked for anything of another origin than the first page's.

        What a Content-Security-Policy stops is an error too.
        """
        assert self.complaints == []
        assert outside(self.requests) == []


def wait(page: Page, condition: str, seconds: float = 60.0) -> None:
    """Wait until an expression of JavaScript is true.

    Playwright's own waiting evaluates strings in the page, which a strict policy forbids.
    """
    until = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < until, f"never true: {condition}"
        page.wait_for_timeout(15)


def outside(requests: list[str]) -> list[str]:
    """The requests that leave the origin of the first."""
    asked = [urlsplit(url) for url in requests]
    home = {(url.scheme, url.netloc) for url in asked[:1]}
    return [url.geturl() for url in asked
            if (url.scheme, url.netloc) not in home and url.scheme not in LOCAL]  # fmt: skip
