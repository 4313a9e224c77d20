"""What browsers are told about the console: run only its own scripts, let nobody frame it, keep nothing of it."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import Final

from jinja2 import Environment
from jinja2.ext import Extension
from starlette.types import Scope

from receiver.headers import Headers

_FIXED: Final = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_HTTPS_ONLY: Final = (b"strict-transport-security", b"max-age=31536000")
# Styles may stand in attributes: the frame's and the charts' do.
_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# What the frame's templates say to browsers in attributes, which this policy forbids; console.js does it instead.
_HANDLERS: Final = {
    'onchange="window.location = this.value"': "data-goes-to-value",
    'onclick="applyColumnVisibility()"': "data-applies-columns",
}
_SCRIPT: Final = re.compile(r"<script(?![^>]*\bsrc=)")

_nonce: ContextVar[str] = ContextVar("nonce", default="")


class Nonces(Extension):
    """Marks the scripts that stand in templates, as they are compiled: what a page shows can never be among them."""

    def __init__(self, environment: Environment) -> None:
        """Let templates ask for the nonce of the answer that they are part of."""
        super().__init__(environment)
        environment.globals["csp_nonce"] = _nonce.get

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Return the source with a nonce on each script of its own."""
        del name, filename
        for handler, attribute in _HANDLERS.items():
            source = source.replace(handler, attribute)
        return _SCRIPT.sub('<script nonce="{{ csp_nonce() }}"', source)


def for_browsers(scope: Scope) -> Headers:
    """Return what keeps browsers from running, framing, guessing, telling and keeping an answer."""
    path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
    nonce = secrets.token_urlsafe(16)
    _nonce.set(nonce)
    headers = [*_FIXED, (b"content-security-policy", _POLICY.format(nonce=nonce).encode())]
    if scope.get("scheme") == "https":
        headers.append(_HTTPS_ONLY)
    if not path.startswith("/static/"):
        headers.append((b"cache-control", b"no-store"))
    return headers
