"""Who has many deliveries refused is refused in fewer words: no line in the log, and no waiting for a body.

A delivery whose signature fits is always let in, also from an address that is throttled: behind a proxy that is not
told of, everybody has one address, and what Zoho sends may come once only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

from processors import senders

_WINDOW_SECONDS = 60.0
MOST_REFUSED = 60
"""So many in a minute are answered and logged one by one."""
# Of addresses that were refused lately no more are remembered; a flood from more is a flood from many.
_MOST_SENDERS = 10_000


@dataclass(slots=True)
class _Refused:
    since: float
    count: int = 0


class Throttle:
    """What this process refused lately, by sender: an address, or a network of 64 bits where it is IPv6."""

    def __init__(self) -> None:
        """Remember nobody."""
        self._senders: OrderedDict[str, _Refused] = OrderedDict()
        self._active_until = 0.0

    @property
    def is_active(self) -> bool:
        """Tell whether anybody is throttled: only then need it be known who sends."""
        return monotonic() < self._active_until

    def is_throttled(self, address: str) -> bool:
        """Tell whether this sender had too much refused within the last minute."""
        refused = self._senders.get(senders.counted_as(address))
        return refused is not None and refused.count > MOST_REFUSED and monotonic() - refused.since < _WINDOW_SECONDS

    def count(self, address: str) -> int:
        """Count one that was refused, and return how many there were in this minute."""
        sender, now = senders.counted_as(address), monotonic()
        refused = self._senders.get(sender)
        if refused is None or now - refused.since >= _WINDOW_SECONDS:
            refused = self._senders[sender] = _Refused(now)
            self._senders.move_to_end(sender)
            if len(self._senders) > _MOST_SENDERS:
                self._senders.popitem(last=False)
        refused.count += 1
        if refused.count > MOST_REFUSED:
            self._active_until = refused.since + _WINDOW_SECONDS
        return refused.count
