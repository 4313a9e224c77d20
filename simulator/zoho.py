"""The simulated Zoho as one object: its catalogue, accounts server, quotas, faults and webhooks."""

from __future__ import annotations

from simulator.automation import Automation
from simulator.catalogue import Catalogue, Change
from simulator.clock import Clock, system_clock
from simulator.deliveries import Deliveries
from simulator.faults import Faults
from simulator.identity import Organization
from simulator.limits import Limits
from simulator.request_log import RequestLog
from simulator.tokens import Tokens


class Zoho:
    """Ties the parts together: a change in `catalogue` becomes deliveries, unless it says otherwise.

    `clock` drives tokens and quotas; item times follow the catalogue's own clock, so that a test can
    hold one and let the other run. `other_organizations`, which may be assigned to, are those that the
    consenting user belongs to besides; they have no items to read. `filter_is_inclusive` decides whether the list's
    `last_modified_time` filter returns items of that very second, which Zoho does not document.
    """

    def __init__(
        self,
        catalogue: Catalogue | None = None,
        *,
        webhook_url: str | None = None,
        limits: Limits | None = None,
        deliveries: Deliveries | None = None,
        filter_is_inclusive: bool = False,
        clock: Clock = system_clock,
    ) -> None:
        self.catalogue = catalogue if catalogue is not None else Catalogue(clock=clock)
        self.organization = self.catalogue.organization
        self.other_organizations: tuple[Organization, ...] = ()
        self.clock = clock
        self.filter_is_inclusive = filter_is_inclusive
        self.tokens = Tokens(clock=clock)
        self.limits = limits or Limits(clock=clock, organization=self.organization)
        self.faults = Faults()
        self.requests = RequestLog()
        self.deliveries = deliveries or Deliveries(organization=self.organization, clock=clock)
        if webhook_url is not None:
            self.deliveries.base_url = webhook_url
        self.automation = Automation(self.deliveries)
        self.catalogue.on_change(self._deliver)

    @property
    def organizations(self) -> tuple[Organization, ...]:
        """All that the user belongs to; the first one is the one with the catalogue, and the default."""
        return (self.organization, *self.other_organizations)

    @property
    def token_refreshes(self) -> int:
        """How many access tokens refresh tokens were exchanged for."""
        return self.tokens.refreshes

    def calls(self, path: str = "*") -> int:
        """Count the requests whose path matches a glob such as `/inventory/v1/items*`."""
        return self.requests.count(path)

    def _deliver(self, change: Change) -> None:
        if change.webhook:
            self.deliveries.fire(change.event, change.item)
