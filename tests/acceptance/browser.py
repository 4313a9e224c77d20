"""Debian's Chromium, headless, as an operator sits before it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
# A machine without a network: without these it would look up its maker's hosts at each start.
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, NARROW = 1280, 390


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser for as long as the block lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        try:
            yield browser
        finally:
            browser.close()


class Operator:
    """Somebody at the console; what fails on a page fails the test."""

    def __init__(self, browser: Browser, base_url: str, *, javascript: bool = True, width: int = WIDE) -> None:
        self.base_url = base_url
        self._context = browser.new_context(
            java_script_enabled=javascript, viewport={"width": width, "height": 900}, timezone_id="Europe/Berlin"
        )
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(15_000)
        self.troubles: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, said: ConsoleMessage) -> None:
        # The simulated Zoho has no icon to show.
        if said.type == "error" and said.location["url"].startswith(self.base_url):
            self.troubles.append(f"{said.text} {said.location['url']}")

    def open(self, path: str = "") -> Page:
        self.page.goto(f"{self.base_url}/console/{path}")
        return self.page

    def sign_in(self, name: str, password: str) -> Page:
        self.open()
        self.page.fill("#username", name)
        self.page.fill("#password", password)
        self.page.click("button:has-text('Sign in')")
        self.page.wait_for_selector("h1:has-text('Overview')")
        return self.page

    def press(self, text: str) -> Page:
        """Press a button or follow a link of the page."""
        self.page.locator(f".page-wrapper :is(button, a):has-text({text!r})").first.click()
        return self.page

    def reads(self, text: str) -> str:
        """Wait until the page says so, and return all that it says."""
        self.page.wait_for_selector(f"text={text}")
        return self.page.inner_text("body")

    def close(self) -> None:
        self._context.close()
