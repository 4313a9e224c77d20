"""The errors of this project. The branch decides what happens next.

MirrorError
├── ConfigurationError    the process stops at start, one line per variable
├── DeliveryRejected      a webhook is answered 4xx, nothing is stored
├── BodyUnreadable        authenticated, but not an item: kept as a dead event
├── PublishFailed         Redis did not take a message: the relay tries again
├── LeaseLost             another worker goes on with the run: this one commits nothing more
├── RunRefused            an operator asked for something that this run does not allow
├── ReplayRefused         an operator meant no events, or such as cannot be replayed
├── ConnectionRefused     Zoho cannot be connected so; an operator reads what to do
├── AccessRefused         an operator's name, role or password will not do
├── SignInFailed          name and password do not belong together
├── SignInThrottled       too many tried to sign in
├── AlertNotSent          a message to people did not arrive: it is sent again
├── MigrationFailed       a file of the schema could not be applied; an operator reads which, why and what to do
├── SchemaUnknown         the database is of a newer release: this one's migrate leaves it alone
└── WorkError             raised while an event or a run is worked on
    ├── MustWait          not now, and not the work's fault: tried again, no failure counted
    │   ├── NotConnected        no usable credentials; an operator connects Zoho
    │   ├── TokenThrottled      the token endpoint is being left alone
    │   ├── NotAuthorised       Zoho refuses this installation: its organisation, subscription or rights
    │   ├── ZohoAway            Zoho said nothing usable several times in a row, whoever asked
    │   └── BudgetSpent         minute, day or concurrency used up, by this mirror's account or by Zoho's
    ├── TransientError    tried again with growing delays, then dead
    │   ├── ZohoUnavailable     no answer, a server error, or an answer that is not JSON
    │   ├── RefusalUnexplained  Zoho refuses, and nobody knows yet whether for the item's sake
    │   └── WrittenByOthers     a run was beaten to its rows again and again
    └── PermanentError    dead at once
        ├── ZohoRefused         Zoho refuses this request, and does answer others
        ├── OtherOrganisation   a delivery names another organisation than the connected one
        ├── ItemUnusable        even Zoho's own answer lacks what a product needs
        └── ListUntrustworthy   what Zoho's list showed cannot be all there is
"""

from __future__ import annotations

from datetime import timedelta


class MirrorError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigurationError(MirrorError):
    """A setting is wrong or missing; each line of the text names one variable and what it should hold."""


class DeliveryRejected(MirrorError):
    """A delivery is refused before anything is stored.

    `reason` is one of a small closed set of words (it labels a counter), `status` the HTTP answer.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Keep the answer's parts; `message` is shown to the sender and must hold no secret."""
        super().__init__(message)
        self.status = status
        self.reason = reason


class BodyUnreadable(MirrorError):
    """An authenticated body holds no item; the text says what was expected and what was found."""


class PublishFailed(MirrorError):
    """Redis did not take a message. Harmless: the event's row is the truth and the relay finds it."""


class LeaseLost(MirrorError):
    """Another worker goes on with the run, because this one's lease lapsed; nothing of its page was committed."""


class RunRefused(MirrorError):
    """The run is not in a state in which this can be done; the text says what it is and what to do."""


class ReplayRefused(MirrorError):
    """No event is meant, or none of which this can be done; the text says why."""


class ConnectionRefused(MirrorError):
    """Zoho cannot be connected, or the connection changed, in this way; the text says why and what to do."""


class AccessRefused(MirrorError):
    """A person or a program cannot be given access so; the text says why."""


class SignInFailed(MirrorError):
    """Name and password do not belong together; the text does not say which of them is wrong."""


class SignInThrottled(MirrorError):
    """Too many attempts to sign in; the text says what to wait for."""


class AlertNotSent(MirrorError):
    """A message did not arrive where `ALERT_WEBHOOK_URL` leads; the text says why and holds no address."""


class MigrationFailed(MirrorError):
    """A migration could not be applied; the text names its file, says why, and what became of it."""


class SchemaUnknown(MirrorError):
    """The database has a migration that this release does not; the text says which, and what to do."""


class WorkError(MirrorError):
    """Something kept an event or a run from being finished."""


class MustWait(WorkError):
    """The work cannot be done now for a reason that is not its own."""

    def __init__(self, message: str, retry_after: timedelta) -> None:
        """`retry_after` is counted from now."""
        super().__init__(message)
        self.retry_after = retry_after


class NotConnected(MustWait):
    """Zoho credentials are missing or refused; an operator has to connect Zoho (again)."""


class TokenThrottled(MustWait):
    """The token endpoint refused or throttled lately and is left alone for a growing while."""


class NotAuthorised(MustWait):
    """Zoho refuses whatever is asked: wrong organisation, no subscription, missing scope, wrong data centre."""


class ZohoAway(MustWait):
    """Zoho's answers could not be read several times in a row; it is asked again now and then."""


class BudgetSpent(MustWait):
    """No call may be made now: minute, day or concurrency is used up, or Zoho says so and the breaker is open."""


class TransientError(WorkError):
    """May go better next time."""


class ZohoUnavailable(TransientError):
    """Zoho gave no answer, a server error, or something that is not its JSON."""


class RefusalUnexplained(TransientError):
    """Zoho refused in a way that is in no table, for the first time; the next one shows whether for the item's sake."""


class WrittenByOthers(TransientError):
    """Others wrote the same rows each time that this run was about to."""


class PermanentError(WorkError):
    """Will not go better next time; a person has to look."""


class ZohoRefused(PermanentError):
    """Zoho refuses this very request: it was seen to answer others, or this is none of the mirror's own work."""


class OtherOrganisation(PermanentError):
    """A delivery is of another organisation than the connected one; the text names both."""


class ItemUnusable(PermanentError):
    """Zoho's own answer for an item lacks what a product needs."""


class ListUntrustworthy(PermanentError):
    """What Zoho's list showed cannot be all there is: the run is not complete, and nothing may be tombstoned by it."""
