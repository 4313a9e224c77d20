"""Addresses that hold a password: accepted only where every driver reads the same password from them.

Drivers disagree about an address whose password holds an unescaped `@` or `/`: one takes half of it for the host, and
shows it in its error message. Such addresses are refused here, before any driver sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, unquote_plus

_DELIMITERS = "@/?#[]"
_HOST = r"(?:\[[0-9A-Za-z:.%]+\]|[^\[\]:,/?#@]*)(?::[0-9]{0,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WEB = ("http", "https")
_LAST_PORT = 65_535


def checked(url: str, *schemes: str) -> str:
    """Return the address as it is.

    Raises:
        ValueError: it has another scheme, or can be read in more than one way. The text says which characters must be
            percent-encoded, and quotes nothing else.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in schemes:
        message = f"it should begin with {' or '.join(f'{each}://' for each in schemes)}"
        raise ValueError(message)
    # A path of the web may hold an @. Elsewhere a second one leaves open where the password ends.
    ambiguous = re.split(r"[/?]", rest, maxsplit=1)[0] if scheme in _WEB else rest
    wrong = dict.fromkeys((*_wrong(ambiguous), *(each for each in rest if each == "#" or not _is_plain(each))))
    if wrong:
        named = ", ".join(f"{_named(each)} as %{ord(each):02X}" for each in wrong)
        message = f"percent-encode what its user or password holds (or a name behind them): write {named}"
        raise ValueError(message)
    hosts = re.split(r"[/?]", ambiguous.rpartition("@")[2], maxsplit=1)[0]
    if not _HOSTS.fullmatch(hosts) or any(int(port) > _LAST_PORT for port in re.findall(r":([0-9]+)(?:,|$)", hosts)):
        message = (
            "its host and port cannot be read: user and password stand before an @, with / written as %2F, ? as %3F, "
            "# as %23 and : as %3A"
        )
        raise ValueError(message)
    return url


def passwords(url: str) -> Iterator[str]:
    """Yield the passwords that an address holds, as they are written and as they are meant; it was `checked`."""
    rest = url.partition("://")[2]
    credentials, at, _ = re.split(r"[/?]", rest, maxsplit=1)[0].rpartition("@")
    password = credentials.partition(":")[2]
    if at and password:
        yield password
        yield unquote(password)
    query = rest.partition("?")[2]
    for name, value in parse_qsl(query):
        if "password" in name.lower():
            yield value
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if "password" in name.lower():
            yield value
            yield unquote(value)
            yield unquote_plus(value)


def _wrong(text: str) -> Iterator[str]:
    """Yield the characters that leave it open where user and password end, or what they are."""
    if _BAD_ESCAPE.search(text):
        yield "%"
    credentials, at, _ = text.rpartition("@")
    if at:
        yield from (each for each in credentials if each in _DELIMITERS)
        if credentials.count(":") > 1:
            yield ":"


def _is_plain(character: str) -> bool:
    return character.isprintable() and not character.isspace()


def _named(character: str) -> str:
    if character == " ":
        return "a blank"
    return character if _is_plain(character) else "a control character"
