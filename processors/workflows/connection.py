"""The connection to Zoho as operators see it and change it. Console and command line stand on these."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from processors import logs
from processors.errors import ConfigurationError, ConnectionRefused, NotConnected, TokenThrottled, WorkError
from processors.pasting import cleaned
from processors.settings import HOSTS, Settings
from processors.store import audit, organization, zoho_connection
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.store.zoho_connection import Stored
from processors.zoho import guard, hosts, token_endpoint
from processors.zoho.client import ZohoClient
from processors.zoho.connecting import KEYS_ARE_MISSING, SCOPES, SCOPES_WITH_WEBHOOKS, Organisation, not_among

# What can stand in Zoho's forms; blanks and quotation marks come from pasting.
_PRINTABLE = re.compile(r"[!#-&(-_a-~]{1,200}")

# Whoever waits for the connection's row holds a connection of the pool, and who has the row needs another one to note
# its call to Zoho: many at once would wait for each other's.
_acting = threading.Lock()

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionDetail:
    """All that can be said of the connection, and no secret. A setting of the environment wins, each for itself."""

    data_center: str
    data_center_is_set: bool
    """By the environment, as of the other `…_is_set`."""
    accounts_url: str
    api_url: str
    client_id: str | None
    client_is_set: bool
    has_client_secret: bool
    organization_id: str | None
    organization_name: str | None
    organization_is_set: bool
    is_connected: bool
    """There is a refresh token; the organisation may still have to be chosen."""
    connected_as: str | None
    connected_at: datetime | None
    """None: not connected, or by `ZOHO_REFRESH_TOKEN`."""
    connected_by: str | None
    scopes: str | None
    access_token_expires_at: datetime | None
    refreshed_at: datetime | None
    last_error: str | None
    refresh_allowed_at: datetime | None
    """In the future, or None: the token may be refreshed now."""
    can_store_secrets: bool
    what_to_do: str | None
    """What is missing for calls to Zoho; None: nothing."""


def detail(connection: Connection, settings: Settings) -> ConnectionDetail:
    """Return the connection as it is now."""
    stored = zoho_connection.read(connection)
    client_is_set = token_endpoint.client_is_set(settings)
    secret = settings.zoho_client_secret if client_is_set else stored.client_secret
    organization_id = guard.organization_id(settings, stored)
    obstacle = guard.find_now(connection, settings, stored)
    has_name = organization_id == stored.organization_id
    return ConnectionDetail(
        data_center=hosts.data_center(settings, stored),
        data_center_is_set=hosts.data_center_is_set(settings),
        accounts_url=hosts.named_accounts_url(settings, stored),
        api_url=hosts.named_api_url(settings, stored),
        client_id=settings.zoho_client_id if client_is_set else stored.client_id,
        client_is_set=client_is_set,
        has_client_secret=bool(secret),
        organization_id=organization_id,
        organization_name=stored.organization_name if has_name else None,
        organization_is_set=settings.zoho_organization_id is not None,
        is_connected=stored.refresh_token is not None,
        connected_as=stored.connected_as,
        connected_at=stored.connected_at,
        connected_by=stored.connected_by,
        scopes=stored.scopes,
        access_token_expires_at=stored.access_token_expires_at,
        refreshed_at=stored.refreshed_at,
        last_error=stored.last_error,
        refresh_allowed_at=stored.refresh_allowed_at if stored.left_alone_for > timedelta() else None,
        can_store_secrets=bool(settings.encryption_keys),
        what_to_do=obstacle.reason if obstacle else _what_to_do(settings, stored, organization_id),
    )


def _what_to_do(settings: Settings, stored: Stored, organization_id: str | None) -> str | None:
    box = token_endpoint.secret_box(settings)
    if box is None:
        return KEYS_ARE_MISSING
    try:
        token_endpoint.client(settings, stored, box)
    except (NotConnected, ConfigurationError) as error:
        return str(error)
    if stored.refresh_token is None:
        ways = "connect here" + (", or set another ZOHO_REFRESH_TOKEN" if settings.zoho_refresh_token else "")
        return f"Zoho is not connected: {ways}"
    return "no organisation is chosen: choose one" if organization_id is None else None


def require_organisation(connection: Connection, settings: Settings) -> None:
    """See that calls to Zoho can name an organisation.

    Raises:
        ConnectionRefused: neither the environment nor the connection has one, or the rows are another's.
    """
    stored = zoho_connection.read(connection)
    obstacle = guard.find_now(connection, settings, stored)
    if obstacle:
        raise ConnectionRefused(obstacle.reason)
    if guard.organization_id(settings, stored) is None:
        message = (
            "no organisation is known: connect Zoho in the console and choose one there, "
            "or set ZOHO_ORGANIZATION_ID to its number"
        )
        raise ConnectionRefused(message)


def require_connection(connection: Connection, settings: Settings) -> None:
    """See that Zoho can be called.

    Raises:
        ConnectionRefused: there is no organisation, or no refresh token.
    """
    require_organisation(connection, settings)
    if zoho_connection.read(connection).refresh_token is None and settings.zoho_refresh_token is None:
        message = "Zoho is not connected: connect it first"
        raise ConnectionRefused(message)


def keep_client(
    pool: Pool,
    settings: Settings,
    *,
    data_center: str,
    client_id: str,
    client_secret: str | None,
    requester: Requester,
) -> None:
    """Keep what an operator entered; without `client_secret` the one that is stored stays.

    What the environment sets is left out of the form, so `data_center` or `client_id` may be empty then.

    Raises:
        ConnectionRefused: the text says which of them will not do, and why.
    """
    box = token_endpoint.secret_box(settings)
    data_center, client_id = _pasted("data centre", data_center), _pasted("client id", client_id)
    client_secret = _pasted("client secret", client_secret or "")
    with _acting, pool.connection() as connection, connection.transaction():
        zoho_connection.lock(connection)
        stored = zoho_connection.read(connection)
        kept_data_center = _checked_data_center(settings, stored, data_center)
        ciphertext = stored.client_secret
        if token_endpoint.client_is_set(settings):
            if client_secret or client_id not in ("", settings.zoho_client_id):
                message = "the client is set by ZOHO_CLIENT_ID and ZOHO_CLIENT_SECRET, which win: change it there"
                raise ConnectionRefused(message)
            kept_client_id = stored.client_id
        else:
            kept_client_id = client_id
            _check_client(stored, client_id, client_secret)
            if client_secret:
                if box is None:
                    raise ConnectionRefused(KEYS_ARE_MISSING)
                ciphertext = box.encrypt(client_secret, zoho_connection.place_of("client_secret"))
        zoho_connection.keep_client(
            connection, data_center=kept_data_center, client_id=kept_client_id, client_secret=ciphertext
        )
        told = {
            "data_center": kept_data_center,
            "client_id": kept_client_id,
            "secret_replaced": bool(client_secret),
        }
        audit.note(connection, requester, "zoho.client_entered", [kept_client_id] if kept_client_id else [], told)
    _log.info("zoho.client_entered", client_id=kept_client_id, requested_by=str(requester))


def _pasted(name: str, text: str) -> str:
    """Take away what pasting added, as of a setting."""
    try:
        return cleaned(text)
    except ValueError as error:
        message = f"the {name} cannot be used: {error}; copy it from Zoho's API console again"
        raise ConnectionRefused(message) from None


def _checked_data_center(settings: Settings, stored: Stored, entered: str) -> str | None:
    if hosts.data_center_is_set(settings):
        if entered not in ("", settings.zoho_data_center):
            message = f"the data centre is set by ZOHO_DATA_CENTER={settings.zoho_data_center}, which wins"
            raise ConnectionRefused(message)
        return stored.data_center
    if entered not in HOSTS:
        message = f"there is no data centre {entered[:20]!r}; there are: {', '.join(HOSTS)}"
        raise ConnectionRefused(message)
    return entered


def _check_client(stored: Stored, client_id: str, client_secret: str) -> None:
    if not _PRINTABLE.fullmatch(client_id):
        message = "a client id is needed, as Zoho's API console shows it: 1000.… without spaces"
        raise ConnectionRefused(message)
    is_other = client_id != stored.client_id
    if client_secret and not _PRINTABLE.fullmatch(client_secret):
        message = (
            "that is no client secret: it has no spaces and at most 200 characters; copy it from Zoho's API console"
        )
        raise ConnectionRefused(message)
    if not client_secret and (is_other or stored.client_secret is None):
        message = "the client's secret is needed with its id; Zoho's API console shows both"
        raise ConnectionRefused(message)
    if is_other and stored.refresh_token is not None and stored.connected_at is not None:
        message = (
            f"Zoho is connected by the client {stored.client_id}; disconnect first, so that its tokens are revoked, "
            "then enter the other client"
        )
        raise ConnectionRefused(message)


def authorise_url(pool: Pool, settings: Settings, *, redirect_uri: str, state: str, with_webhooks: bool = False) -> str:
    """Return the address of the page on which Zoho asks for consent; also to set the webhooks up, if that is wanted.

    Raises:
        ConnectionRefused: no client is known, or what it gets could not be stored.
    """
    with ZohoClient(pool, settings) as zoho:
        wanted = SCOPES_WITH_WEBHOOKS if with_webhooks else SCOPES
        return zoho.connector.authorise_url(redirect_uri=redirect_uri, state=state, wanted=wanted)


def connect(
    pool: Pool,
    settings: Settings,
    *,
    code: str,
    redirect_uri: str,
    accounts_server: str | None,
    requester: Requester,
) -> list[Organisation]:
    """Exchange the code that a consent gave, and return the organisations to choose from.

    `accounts_server` is what the callback names, if anything. An organisation that is set, was chosen before, or is the
    only one, is chosen already.

    Raises:
        ConnectionRefused: Zoho or this mirror refuses; the text says whether Zoho is connected, and what to do.
        TokenThrottled, ZohoUnavailable: not now; nothing was changed.
    """
    if not code:
        message = "Zoho sent no code: connect again, and accept on Zoho's page"
        raise ConnectionRefused(message)

    def note(connection: Connection) -> None:
        audit.note(connection, requester, "zoho.connected", [], {"accounts_server": accounts_server})

    with _calling(pool, settings) as zoho:
        zoho.connector.connect(
            code=code,
            redirect_uri=redirect_uri,
            accounts_server=accounts_server,
            connected_by=str(requester),
            note=note,
        )
        _log.info("zoho.connected", requested_by=str(requester))
        try:
            found = zoho.organisations()
        except WorkError as error:
            message = f"Zoho is connected, but its organisations could not be read: {error}; choose one a little later"
            raise ConnectionRefused(message) from None
        user = zoho.user(_first(found).organization_id)
        with pool.connection() as connection, connection.transaction():
            zoho_connection.lock(connection)
            if user:
                zoho_connection.keep_user(connection, user)
            _choose_if_clear(connection, settings, found, requester)
    return found


def _first(found: list[Organisation]) -> Organisation:
    return next((organisation for organisation in found if organisation.is_default), found[0])


def _choose_if_clear(
    connection: Connection, settings: Settings, found: list[Organisation], requester: Requester
) -> None:
    owner = organization.owner(connection)
    wanted = settings.zoho_organization_id or owner or zoho_connection.read(connection).organization_id
    chosen = next((each for each in found if each.organization_id == wanted), None)
    if chosen:
        if organization.claim(connection, chosen.organization_id) == chosen.organization_id:
            # It was chosen before; its name may be news.
            zoho_connection.choose_organization(connection, chosen.organization_id, chosen.name)
    elif wanted and (settings.zoho_organization_id or owner):
        # What is mirrored here stays the organisation's that it was read from.
        zoho_connection.note_error(connection, not_among(wanted, found))
    elif len(found) == 1:
        _choose(connection, found[0], requester)
    elif wanted:
        zoho_connection.choose_organization(connection, None, None)
        audit.note(connection, requester, "zoho.organisation_dropped", [wanted])


def _choose(connection: Connection, chosen: Organisation, requester: Requester) -> None:
    _require_ours(connection, chosen.organization_id)
    zoho_connection.choose_organization(connection, chosen.organization_id, chosen.name)
    audit.note(connection, requester, "zoho.organisation_chosen", [chosen.organization_id], {"name": chosen.name})
    _log.info("zoho.organisation_chosen", organization_id=chosen.organization_id, requested_by=str(requester))


def organisations(pool: Pool, settings: Settings) -> list[Organisation]:
    """Return the organisations that the connection reaches; one call to Zoho.

    Raises:
        WorkError: see `processors.errors`; Zoho is not connected, or gives no answer now.
    """
    with _calling(pool, settings) as zoho:
        return zoho.organisations()


def choose_organisation(pool: Pool, settings: Settings, organization_id: str, requester: Requester) -> None:
    """Mirror this organisation from now on.

    Raises:
        ConnectionRefused: the connection does not reach it, the environment sets another one, or another one is
            mirrored here already.
        WorkError: Zoho is not connected, or gives no answer now.
    """
    if settings.zoho_organization_id not in (None, organization_id):
        message = f"the organisation is set by ZOHO_ORGANIZATION_ID={settings.zoho_organization_id}, which wins"
        raise ConnectionRefused(message)
    found = organisations(pool, settings)
    chosen = next((each for each in found if each.organization_id == organization_id), None)
    if chosen is None:
        raise ConnectionRefused(not_among(organization_id, found))
    with _acting, pool.connection() as connection, connection.transaction():
        zoho_connection.lock(connection)
        _choose(connection, chosen, requester)


def _require_ours(connection: Connection, organization_id: str) -> None:
    """See that the rows are this organisation's, or may become so.

    Raises:
        ConnectionRefused: they are another's.
    """
    mirrored = organization.claim(connection, organization_id)
    if mirrored != organization_id:
        raise ConnectionRefused(guard.other_organisation(organization_id, mirrored))


def refresh_now(pool: Pool, settings: Settings, requester: Requester) -> None:
    """Replace the access token now, by the rules that hold for every refresh.

    Raises:
        TokenThrottled: the token endpoint is left alone; `retry_after` and the text say for how long.
        NotConnected, ZohoUnavailable: the text says why.
    """
    with _calling(pool, settings) as zoho:
        try:
            zoho.refresh_token_now(lambda connection: audit.note(connection, requester, "zoho.refreshed"))
        except TokenThrottled as error:
            message = f"{error}; it can be asked again in {error.retry_after.total_seconds():.0f} s"
            raise TokenThrottled(message, error.retry_after) from None
    _log.info("zoho.refreshed", requested_by=str(requester))


def disconnect(pool: Pool, settings: Settings, requester: Requester) -> str | None:
    """Revoke the tokens at Zoho and forget them; client and organisation stay.

    They are forgotten even where Zoho does not confirm; then a warning is returned.

    Raises:
        ConnectionRefused: there is no connection.
    """

    def note(connection: Connection, is_confirmed: bool) -> None:  # noqa: FBT001 - a callback's only flag
        audit.note(connection, requester, "zoho.disconnected", [], {"revoked": is_confirmed})

    with _calling(pool, settings) as zoho:
        warning = zoho.connector.disconnect(note)
    _log.info("zoho.disconnected", requested_by=str(requester))
    return warning


@contextmanager
def _calling(pool: Pool, settings: Settings) -> Iterator[ZohoClient]:
    with _acting, ZohoClient(pool, settings) as zoho:
        yield zoho
