"""A real browser for the tests of pages: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; skips the test where Playwright or Chromium is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright for tests in a browser")
    path = os.environ.get("CLASSWISE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CLASSWISE_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that has been opened, and everything it did that it should not have.

    Attributes:
        page: Playwright's page.
        complaints: errors, messages on the console, dialogs.
        requests: addresses asked for, the page itself first.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    def to(cls, browser: Any, path: Path, width: int = 1440) -> Visit:
        """Open a page from disk."""
        visit = cls(browser.new_page(viewport={"width": width, "height": 900}))
        visit.page.on("console", lambda message: visit.complaints.append(message.text))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on("dialog", lambda dialog: (visit.complaints.append(dialog.message), dialog.dismiss()))
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.goto(path.as_uri(), timeout=120_000)
        return visit

    def texts(self, selector: str) -> list[str]:
        """Return the texts of what is visible."""
        found = self.page.evaluate(
            "s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).map(e => e.textContent.trim())",
            selector,
        )
        return list(found)

    def overflow(self, width: int) -> list[str]:
        """Return what sticks out of the page to the right in a window of this width, outside scrolling boxes."""
        self.page.set_viewport_size({"width": width, "height": 900})
        # Charts follow the window a moment later.
        self.page.wait_for_timeout(300)
        found = self.page.evaluate(
            """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '#' + e.id).slice(0, 9)
            .concat(document.documentElement.scrollWidth)"""
        )
        return list(found)

    def unreachable(self) -> list[str]:
        """Return what can be pressed or scrolled, but not reached by the keyboard."""
        found = self.page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, .scroll, .chart-box')]
            .filter(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight || !e.matches('div'))
            .filter(e => e.tabIndex < 0).map(e => e.outerHTML.slice(0, 80))"""
        )
        return list(found)
