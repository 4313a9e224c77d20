"""What an answer of Zoho's API says, and whom it is about: the item, this installation, or nobody.

Zoho's error page and integrators' logs (October to December 2026). Codes are few and not all documented, so what is in
no table here is a refusal of which nobody knows whose it is: the installation's, until Zoho is seen to give other items
(`processors.zoho.client`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from processors.store.api_calls import Verdict

NO_SUCH_RECORD: Final[Mapping[int, str]] = {
    1002: "the record does not exist (Zoho's error page)",
    5: "no resource of that id (integrators' logs)",
    2006: "the resource does not exist, of a deleted item (an integrator's code)",
}
"""Zoho's own word that the item is gone: nothing else says so."""

OF_THE_INSTALLATION: Final[Mapping[int, str]] = {
    6041: "the login does not belong to the organisation; HTTP 400 (integrators' logs)",
    103001: "the trial is over; HTTP 400 (integrators' logs)",
    9055: "the subscription is over; HTTP 402 (integrators' logs)",
}
"""What is refused whatever is asked, and no token cures."""

_INVALID_ORGANISATION = (httpx.codes.BAD_REQUEST, 4)
"""HTTP 400 with code 4: the organisation is invalid (integrators' logs); with another status, 4 is not known."""

UNAUTHORISED: Final = frozenset({14, 57})
"""The token, or what it may do: one refresh tells (integrators' logs)."""

QUOTA: Final = frozenset({43, 44, 45, 1070})
"""Minute (43 was seen beside 44), day, calls at once; with 429, and at times with 200, 400 or 500."""

_LIMIT_PAGE = re.compile(rb"request\s+limit|too\s+many\s+requests", re.IGNORECASE)
_LONGEST_LOOK = 20_000
_SUCCESS = (httpx.codes.OK, httpx.codes.CREATED, httpx.codes.NO_CONTENT)
_TELLS_OF_RECORDS = (httpx.codes.NOT_FOUND, httpx.codes.OK, httpx.codes.BAD_REQUEST)


def judge(status: int, answer: Mapping[str, Any] | None, content: bytes) -> Verdict:
    """Return what an answer says; `answer` is None where `content` is no JSON object."""
    code = code_of(answer or {})
    if status == httpx.codes.TOO_MANY_REQUESTS or code in QUOTA or (answer is None and is_limit_page(content)):
        return "quota"
    if status == httpx.codes.PAYMENT_REQUIRED or code in OF_THE_INSTALLATION or (status, code) == _INVALID_ORGANISATION:
        return "installation"
    if status == httpx.codes.UNAUTHORIZED or code in UNAUTHORISED:
        return "unauthorised"
    if status == httpx.codes.FORBIDDEN:
        # Zoho documents no 403; a firewall or an allow-list in between answers so, and not because of the item.
        return "installation"
    if answer is None:
        return "unusable"
    if code in NO_SUCH_RECORD and status in _TELLS_OF_RECORDS:
        return "gone"
    if status in _SUCCESS and code in (0, None):
        return "good"
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in (httpx.codes.OK, httpx.codes.NOT_FOUND):
        # A 404 without Zoho's own code is a wrong address or a proxy, and says nothing about the record.
        return "unusable"
    return "refused"


def is_limit_page(content: bytes) -> bool:
    """Tell whether a page for people says that there were too many requests; seen with HTTP 200."""
    return _LIMIT_PAGE.search(content[:_LONGEST_LOOK]) is not None


def code_of(answer: Mapping[str, Any]) -> int | None:
    """Return Zoho's own code, if the answer has one that can be stored."""
    code = answer.get("code")
    if isinstance(code, str) and re.fullmatch(r"\d{1,9}", code):
        return int(code)
    return code if isinstance(code, int) and abs(code) < 2**31 else None


def told(status: int, answer: Mapping[str, Any]) -> str:
    """Return an answer in words; Zoho's text may be long."""
    return f"{status}, code {code_of(answer)}, {str(answer.get('message', ''))[:200]!r}"
