"""Where Zoho is: its data centres, and which of its servers may be told a secret.

A secret goes to a host of Zoho's, or to one that the environment names. That is checked where an address is used, since
whoever can write the database could else have the tokens sent anywhere.

A setting of the environment wins over what an operator entered, each for itself; what Zoho named when it was connected
wins over the data centre, because tokens are good only where they were issued.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from processors.errors import ConnectionRefused, NotConnected
from processors.settings import HOSTS, DataCenter, Settings
from processors.store.zoho_connection import Stored

_API_HOST_OF = dict(HOSTS.values())
_UNKNOWN_HOST_WAIT = timedelta(seconds=15)


def data_center_is_set(settings: Settings) -> bool:
    """Tell whether the environment names a data centre, be it the default one."""
    return "zoho_data_center" in settings.model_fields_set


def data_center(settings: Settings, stored: Stored) -> DataCenter:
    """Return the data centre to begin with."""
    if data_center_is_set(settings):
        return settings.zoho_data_center
    return next((known for known in HOSTS if known == stored.data_center), settings.zoho_data_center)


def consent_url(settings: Settings, stored: Stored) -> str:
    """Return the accounts server that asks for consent; it may name another one for everything after."""
    return settings.zoho_accounts_url or HOSTS[data_center(settings, stored)][0]


def accounts_url(settings: Settings, stored: Stored) -> str:
    """Return the accounts server that issued the stored tokens, as far as is known.

    Raises:
        NotConnected: the stored one is not Zoho's; nothing may be sent there.
    """
    return _trusted(settings, "accounts_url", named_accounts_url(settings, stored), _API_HOST_OF.keys())


def api_url(settings: Settings, stored: Stored) -> str:
    """Return the API server, without the `/inventory/v1` path.

    Raises:
        NotConnected: the stored one is not Zoho's; nothing may be sent there.
    """
    return _trusted(settings, "api_domain", named_api_url(settings, stored), _API_HOST_OF.values())


def named_accounts_url(settings: Settings, stored: Stored) -> str:
    """Return the accounts server as it is stored, to be shown; it may be anybody's."""
    return settings.zoho_accounts_url or stored.accounts_url or consent_url(settings, stored)


def named_api_url(settings: Settings, stored: Stored) -> str:
    """Return the API server as it is stored, to be shown; it may be anybody's."""
    return (
        settings.zoho_api_url
        or stored.api_domain
        or _API_HOST_OF.get(stored.accounts_url or "")
        or HOSTS[data_center(settings, stored)][1]
    )


def unknown_host(settings: Settings, stored: Stored) -> str | None:
    """Return why a stored address is not used; None: both may be."""
    try:
        accounts_url(settings, stored)
        api_url(settings, stored)
    except NotConnected as error:
        return str(error)
    return None


def _trusted(settings: Settings, column: str, url: str, known: Collection[str]) -> str:
    if url in known or url in (settings.zoho_accounts_url, settings.zoho_api_url):
        return url
    message = (
        f"zoho_connection.{column} names a host that is not Zoho's ({url[:100]!r}): nothing is sent there; disconnect "
        "and connect again, and find out who wrote it; or set ZOHO_ACCOUNTS_URL and ZOHO_API_URL, if it is yours"
    )
    raise NotConnected(message, _UNKNOWN_HOST_WAIT)


def accounts_server(settings: Settings, stored: Stored, named: str | None) -> str:
    """Return where a code is exchanged: at the server that the callback named, if it is Zoho's.

    A callback is an address that anybody can make up, and the client's secret goes to that server.

    Raises:
        ConnectionRefused: the server is none of Zoho's.
    """
    if not named:
        return consent_url(settings, stored)
    server = named.rstrip("/")
    if server not in _API_HOST_OF and server != settings.zoho_accounts_url:
        message = (
            f"the answer names an accounts server that is none of Zoho's ({named[:100]!r}): nothing was sent there; "
            "if you did not follow a link of somebody else's, connect again"
        )
        raise ConnectionRefused(message)
    return settings.zoho_accounts_url or server


def api_domain(settings: Settings, told: object) -> str | None:
    """Return the API host that came with a token, or None where the token must not be sent there."""
    if not isinstance(told, str):
        return None
    host = told.rstrip("/")
    is_known = host in _API_HOST_OF.values() or host in (settings.zoho_api_url, settings.zoho_accounts_url)
    return host if is_known else None
