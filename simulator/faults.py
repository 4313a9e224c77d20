"""Faults as data: what goes wrong with which requests, added and removed while the server runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from random import Random
from threading import Lock
from types import NoneType
from typing import Final, Self

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "path": (str,),
    "method": (str, NoneType),
    "query": (dict,),
    "after": (int,),
    "times": (int, NoneType),
    "share": (int, float),
    "latency_seconds": (int, float),
    "status": (int, NoneType),
    "code": (int,),
    "message": (str,),
    "body": (str, NoneType),
    "headers": (dict,),
    "drop_connection": (bool,),
    "truncate": (bool,),
    "ignore_filters": (bool,),
    "has_more_page": (bool, NoneType),
    "empty_page": (bool,),
    "hidden_positions": (list, tuple),
    "short_pages_end": (bool,),
    "end": (str, NoneType),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave, for the requests it matches.

    Matching: `path` is a glob (`*` also spans slashes), `method` and the named `query` values must be
    equal where given. The first `after` matching requests go well, the next `times` do not (None: all
    of them), and of those only a `share` by chance.

    Answering: `status` answers instead of the handler, with `code` and `message` in Zoho's error
    shape, or with `body` as it stands; `headers` are added. `latency_seconds` waits first.
    `drop_connection` closes the connection mid-answer, `truncate` sends half of the JSON as if it
    were whole. On lists, `ignore_filters` returns everything with code 0, `has_more_page` lies, and
    `empty_page` leaves the items out. `hidden_positions` (the first is 0) are counted and not shown, as
    Zoho does with what a login may not see; with `short_pages_end`, a page that shows less than it could
    says that it is the last. `end` is what is said behind the last item: `204` (that status), a body
    as it stands, or nothing.
    """

    path: str
    method: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    times: int | None = None
    share: float = 1.0
    latency_seconds: float = 0.0
    status: int | None = None
    code: int = 1000
    message: str = "An internal error occurred. Please try again later."
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_connection: bool = False
    truncate: bool = False
    ignore_filters: bool = False
    has_more_page: bool | None = None
    empty_page: bool = False
    hidden_positions: Sequence[int] = ()
    short_pages_end: bool = False
    end: str | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """Build a fault from decoded JSON.

        Raises:
            ValueError: no `path`, a key that no fault has, or a value of the wrong kind.
        """
        if "path" not in values:
            raise ValueError("a fault needs a path")
        for name, value in values.items():
            if name not in _KINDS:
                raise ValueError(f"a fault has no {name}")
            if not isinstance(value, _KINDS[name]):
                raise ValueError(f"{name} cannot be {value!r}")  # noqa: TRY004 -- a person's mistake
        return cls(**values)  # type: ignore[arg-type]  # each value was checked above

    def matches(self, method: str, path: str, query: Mapping[str, str]) -> bool:
        """Tell whether a request is of the kind this fault is about."""
        return (
            fnmatchcase(path, self.path)
            and self.method in (None, method)
            and all(query.get(name) == value for name, value in self.query.items())
        )


@dataclass(slots=True)
class _Armed:
    fault: Fault
    seen: int = 0


class Faults:
    """The faults in force, with the counts that `after` and `times` need. Thread-safe."""

    def __init__(self, *, seed: int = 0) -> None:
        self._lock = Lock()
        self._random = Random(seed)
        self._armed: list[_Armed] = []

    def add(self, *faults: Fault) -> None:
        """Put faults in force, counting from now."""
        with self._lock:
            self._armed.extend(_Armed(fault) for fault in faults)

    def remove(self, fault: Fault) -> None:
        """Take a fault (an equal one) out of force; one that is not in force is no error."""
        with self._lock:
            self._armed = [armed for armed in self._armed if armed.fault != fault]

    def clear(self) -> None:
        """Let everything go well again."""
        with self._lock:
            self._armed.clear()

    def all(self) -> list[Fault]:
        """Return the faults in force, including those whose `times` are used up."""
        with self._lock:
            return [armed.fault for armed in self._armed]

    def strike(self, method: str, path: str, query: Mapping[str, str]) -> list[Fault]:
        """Count a request and return the faults that befall it."""
        struck: list[Fault] = []
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if not fault.matches(method, path, query):
                    continue
                armed.seen += 1
                is_due = armed.seen > fault.after and (fault.times is None or armed.seen <= fault.after + fault.times)
                if is_due and (fault.share >= 1 or self._random.random() < fault.share):
                    struck.append(fault)
        return struck
