"""The scopes of a consent: which of them cover what is needed."""

from __future__ import annotations

from collections.abc import Iterable


def read(told: object) -> str | None:
    """Return the scopes that an answer names, comma-separated; None: it names none, as Zoho's often do."""
    return ",".join(told.replace(",", " ").split()) if isinstance(told, str) and told.strip() else None


def joined(*scopes: str | None) -> str:
    """Return all of them, each once."""
    return ",".join(dict.fromkeys(each for group in scopes if group for each in group.split(",")))


def missing(granted: str, needed: str) -> list[str]:
    """Return those of the needed scopes that the granted ones do not cover."""
    given = {scope.lower() for scope in granted.split(",")}
    return [scope for scope in needed.split(",") if given.isdisjoint(_covering(scope.lower()))]


def _covering(scope: str) -> Iterable[str]:
    service, _, rest = scope.partition(".")
    module = rest.rpartition(".")[0]
    return {scope, f"{service}.{module}.all", f"{service}.fullaccess.all"}
