"""Who the simulated Zoho is: the credentials that work, and the organisation behind them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta, timezone

CLIENT_ID = "1000.SIMULATORCLIENTID"
CLIENT_SECRET = "simulator-client-secret"  # noqa: S105 -- opens nothing but the simulator
REFRESH_TOKEN = "1000.simulator.refresh-token"  # noqa: S105 -- opens nothing but the simulator
ORGANIZATION_ID = "60012345678"
USER_NAME = "Sita Trader"
USER_EMAIL = "sita@simulated-traders.example"
WEBHOOK_SECRET = "simulatorwebhooksecret"  # noqa: S105 -- Zoho's rule: 12 to 50 letters and digits


@dataclass(frozen=True, slots=True)
class Organization:
    """The organisation whose catalogue is served; every time on the wire is in its time zone."""

    organization_id: str = ORGANIZATION_ID
    name: str = "Simulated Traders"
    time_zone: timezone = timezone(timedelta(hours=5, minutes=30))
    time_zone_name: str = "Asia/Calcutta"
    currency_code: str = "INR"
    currency_symbol: str = "₹"
