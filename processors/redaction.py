"""Takes the secrets of the settings out of texts that others wrote: drivers, servers, tracebacks.

A second net: what holds a secret is not logged or shown in the first place. Each line of the log, each event for Sentry
and each error of a driver that is shown passes through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

FILTERED = "[filtered]"
# Shorter ones are parts of ordinary words.
_SHORTEST_SECRET = 6

_hidden: tuple[str, ...] = ()


def hide(secrets: Iterable[str]) -> None:
    """Take these out of every text from now on, instead of those named before; `Settings.load` calls it."""
    global _hidden  # noqa: PLW0603 - a process has one environment
    forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
    # The longest first: one may be part of another.
    _hidden = tuple(sorted(forms, key=len, reverse=True))


def redact(text: str) -> str:
    """Return the text without the secrets."""
    for secret in _hidden:
        if secret in text:
            text = text.replace(secret, FILTERED)
    return text


def reason(error: BaseException) -> str:
    """Return what an error says, in one line and without secrets, or its class where it says nothing."""
    return redact(" ".join(str(error).split())) or type(error).__name__


def _forms(secret: str) -> Iterable[str]:
    """Yield a secret as it is, and as logs and addresses write it."""
    return (
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, ""),
    )
