"""Cookies are bounded before they are parsed, wherever a page may look at them."""

from __future__ import annotations

import time

import pytest

from receiver.console.sessions import COOKIE
from receiver.cookies import MOST_COOKIE_BYTES
from tests.receiver.serving import Web
from tests.receiver.visitors import Browser

_PATHS = ("/console/", "/console/login", "/oauth/zoho/start", "/oauth/zoho/callback", "/api/products", "/health/live")


@pytest.mark.parametrize("path", _PATHS)
def test_backslashes_in_cookies_cost_no_time(console: Web, path: str) -> None:
    hostile = [f'{name}="' + "\\a" * (MOST_COOKIE_BYTES // 2 - 60) + '"' for name in (COOKIE, "timezone", "a")]
    hostile += ['a="' + "\\" * 60_000 + '"']
    for cookie in hostile:
        started = time.monotonic()
        answer = console.client.get(path, headers={"Cookie": cookie})
        assert time.monotonic() - started < 1
        assert answer.status_code in ((431,) if len(cookie) > MOST_COOKIE_BYTES else (200, 302, 401))


def test_several_lines_of_cookies_are_bounded_together(console: Web) -> None:
    lines = [("Cookie", "a=" + "x" * 5_000)] * 4
    assert console.client.get("/console/login", headers=lines).status_code == 431


def test_cookies_of_other_programs_sign_nobody_out(operator: Browser) -> None:
    operator.cookies = {"theirs": '"a\\054b"', **operator.cookies, "also": "\\\\"}
    assert operator.get("account").status_code == 200
