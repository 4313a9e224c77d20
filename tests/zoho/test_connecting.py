"""Connecting Zoho in the browser: whom a code is given to, what comes of the answer, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
import respx

from processors.errors import ConnectionRefused, MirrorError, NotConnected, TokenThrottled, WorkError, ZohoUnavailable
from processors.settings import HOSTS, Settings
from processors.store import database, runs, zoho_connection
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import connection as connecting
from processors.workflows.connection import ConnectionDetail
from processors.zoho.client import ZohoClient
from tests.zoho.support import KEYS, answering, let_pass

ADA = Requester("console", "ada", "203.0.113.9")
CALLBACK = "https://mirror.example/oauth/zoho/callback"
CODE = "1000.code.delta"
SECRET = "the-secret-of-the-client"
GRANT = {
    "access_token": "1000.access.alpha",
    "refresh_token": "1000.refresh.beta",
    "api_domain": "https://www.zohoapis.com",
    "expires_in": 3600,
}
ORGANISATIONS = {
    "code": 0,
    "organizations": [
        {"organization_id": "60011", "name": "Shop", "is_default_org": True, "currency_code": "EUR", "time_zone": "UTC"}
    ],
}
TWO_ORGANISATIONS = {
    "code": 0,
    "organizations": [*ORGANISATIONS["organizations"], {"organization_id": 60022, "name": "Outlet"}],  # type: ignore[misc]
}
THROTTLED = {"error": "Access Denied", "error_description": "You have made too many requests continuously."}


def settings(**environ: str) -> Settings:
    """A mirror that has nothing of Zoho in its environment."""
    return Settings.load(environ={"ENCRYPTION_KEYS": KEYS[0], **environ})


class Zoho:
    """Every data centre of Zoho's; each answers as a test says."""

    def __init__(self, router: respx.MockRouter) -> None:
        self._router = router
        self.token = router.post(path="/oauth/v2/token").respond(json=GRANT)
        self.revoke = router.post(path="/oauth/v2/token/revoke").respond(json={"status": "success"})
        self.organisations = router.get(path="/inventory/v1/organizations").respond(json=ORGANISATIONS)
        self.user = router.get(path="/inventory/v1/users/me").respond(
            json={"code": 0, "user": {"name": "Ada", "email": "ada@shop.example"}}
        )
        self.items = router.get(path="/inventory/v1/items").respond(json={"code": 0, "items": []})
        self.item = router.get(path="/inventory/v1/items/7").respond(json={"code": 0, "item": {"item_id": "7"}})

    @property
    def hosts(self) -> set[str]:
        """Whom anything was sent to."""
        return {f"{call.request.url.scheme}://{call.request.url.netloc.decode()}" for call in self._router.calls}


@pytest.fixture
def zoho() -> Iterator[Zoho]:
    with respx.mock(assert_all_called=False) as router:
        yield Zoho(router)


def _enter_client(pool: Pool, chosen: Settings, **changes: Any) -> None:
    entered = {"data_center": "com", "client_id": "1000.CLIENT", "client_secret": SECRET, **changes}
    connecting.keep_client(pool, chosen, requester=ADA, **entered)


def _connect(pool: Pool, chosen: Settings, *, server: str | None = "https://accounts.zoho.com") -> list[str]:
    found = connecting.connect(pool, chosen, code=CODE, redirect_uri=CALLBACK, accounts_server=server, requester=ADA)
    return [each.organization_id for each in found]


def _detail(pool: Pool, chosen: Settings) -> ConnectionDetail:
    with pool.connection() as connection:
        return connecting.detail(connection, chosen)


def _form(route: respx.Route) -> dict[str, str]:
    return dict(parse_qsl(route.calls.last.request.content.decode()))


def _audited(connection: Connection) -> list[str]:
    rows = connection.execute("SELECT action, requester FROM audit_log ORDER BY id").fetchall()
    assert {row["requester"] for row in rows} <= {"ada"}
    return [row["action"] for row in rows]


def _fetch(pool: Pool, chosen: Settings) -> Mapping[str, Any] | None:
    with ZohoClient(pool, chosen) as client:
        return client.item("7")


# Data centre and client


def test_what_is_entered_is_used_and_the_secret_is_never_read_again(pool: Pool, connection: Connection) -> None:
    _enter_client(pool, settings(), data_center="eu")
    detail = _detail(pool, settings())
    assert (detail.data_center, detail.accounts_url, detail.client_id) == (
        "eu",
        "https://accounts.zoho.eu",
        "1000.CLIENT",
    )
    assert (detail.has_client_secret, detail.client_is_set, detail.data_center_is_set) == (True, False, False)
    row = connection.execute("SELECT zoho_connection::text || audit_log::text AS row FROM zoho_connection, audit_log")
    told = repr(detail) + str(row.fetchall())
    assert SECRET not in told
    assert SECRET.encode().hex() not in told
    assert _audited(connection) == ["zoho.client_entered"]


def test_a_setting_wins_over_what_was_entered_each_for_itself(pool: Pool) -> None:
    _enter_client(pool, settings(), data_center="eu")
    by_center = _detail(pool, settings(ZOHO_DATA_CENTER="com"))
    assert (by_center.data_center, by_center.data_center_is_set, by_center.client_id) == ("com", True, "1000.CLIENT")
    by_client = _detail(pool, settings(ZOHO_CLIENT_ID="1000.SET", ZOHO_CLIENT_SECRET="x"))
    assert (by_client.data_center, by_client.client_id, by_client.client_is_set) == ("eu", "1000.SET", True)


def test_half_a_client_in_the_environment_is_not_completed_by_the_stored_half(pool: Pool) -> None:
    _enter_client(pool, settings())
    with pytest.raises(ConnectionRefused, match="ZOHO_CLIENT_SECRET is not set"):
        connecting.authorise_url(pool, settings(ZOHO_CLIENT_ID="1000.SET"), redirect_uri=CALLBACK, state="s")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data_center": "mars"}, "no data centre 'mars'"),
        ({"data_center": ""}, "no data centre"),
        ({"client_id": ""}, "client id is needed"),
        ({"client_id": "1000. CLIENT"}, "client id is needed"),
        ({"client_secret": None}, "secret is needed"),
        ({"client_secret": "two words"}, "no client secret"),
        ({"client_secret": "x" * 201}, "no client secret"),
    ],
)
def test_what_cannot_be_a_client_is_refused_with_a_reason(pool: Pool, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConnectionRefused, match=told):
        _enter_client(pool, settings(), **changes)
    assert _detail(pool, settings()).client_id is None


def test_without_keys_no_secret_is_taken(pool: Pool) -> None:
    with pytest.raises(ConnectionRefused, match="ENCRYPTION_KEYS is not set"):
        _enter_client(pool, Settings.load(environ={}))
    assert _detail(pool, Settings.load(environ={})).can_store_secrets is False


def test_without_a_new_secret_the_stored_one_stays_but_only_for_the_same_client(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _enter_client(pool, settings(), data_center="in", client_secret=None)
    with pytest.raises(ConnectionRefused, match="secret is needed"):
        _enter_client(pool, settings(), client_id="1000.OTHER", client_secret=None)
    _connect(pool, settings())
    assert (_form(zoho.token)["client_id"], _form(zoho.token)["client_secret"]) == ("1000.CLIENT", SECRET)


def test_what_the_environment_sets_cannot_be_entered(pool: Pool) -> None:
    chosen = settings(ZOHO_CLIENT_ID="1000.SET", ZOHO_CLIENT_SECRET="x", ZOHO_DATA_CENTER="com")
    with pytest.raises(ConnectionRefused, match="ZOHO_CLIENT_ID"):
        _enter_client(pool, chosen)
    with pytest.raises(ConnectionRefused, match="ZOHO_DATA_CENTER=com"):
        _enter_client(pool, chosen, data_center="eu", client_id="", client_secret=None)


def test_the_client_of_a_connection_is_not_replaced_under_it(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    with pytest.raises(ConnectionRefused, match="disconnect first"):
        _enter_client(pool, settings(), client_id="1000.OTHER")
    connecting.disconnect(pool, settings(), ADA)
    _enter_client(pool, settings(), client_id="1000.OTHER")
    assert zoho.revoke.call_count == 1


# Consent


def test_the_consent_page_is_asked_for_offline_access_and_both_scopes(pool: Pool) -> None:
    _enter_client(pool, settings(), data_center="ca")
    url = urlsplit(connecting.authorise_url(pool, settings(), redirect_uri=CALLBACK, state="a&b"))
    assert f"{url.scheme}://{url.netloc}{url.path}" == "https://accounts.zohocloud.ca/oauth/v2/auth"
    assert parse_qs(url.query) == {
        "response_type": ["code"],
        "client_id": ["1000.CLIENT"],
        "redirect_uri": [CALLBACK],
        "scope": ["ZohoInventory.items.READ,ZohoInventory.settings.READ"],
        "access_type": ["offline"],
        "prompt": ["consent"],
        "state": ["a&b"],
    }


def test_without_a_client_nobody_is_sent_to_zoho(pool: Pool) -> None:
    with pytest.raises(ConnectionRefused, match="no OAuth client is known"):
        connecting.authorise_url(pool, settings(), redirect_uri=CALLBACK, state="s")


# The code


def test_a_code_is_exchanged_in_the_body_and_what_it_gives_is_kept(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    assert _connect(pool, settings()) == ["60011"]
    assert _form(zoho.token) == {
        "grant_type": "authorization_code",
        "code": CODE,
        "redirect_uri": CALLBACK,
        "client_id": "1000.CLIENT",
        "client_secret": SECRET,
    }
    assert not zoho.token.calls.last.request.url.query
    detail = _detail(pool, settings())
    assert (detail.is_connected, detail.connected_as, detail.connected_by) == (True, "ada@shop.example", "console:ada")
    assert (detail.organization_id, detail.organization_name, detail.what_to_do) == ("60011", "Shop", None)
    assert detail.scopes == "ZohoInventory.items.READ,ZohoInventory.settings.READ"
    assert detail.connected_at
    assert detail.access_token_expires_at
    assert _audited(connection) == ["zoho.client_entered", "zoho.connected", "zoho.organisation_chosen"]
    assert connection.execute("SELECT count(*) FROM token_calls").fetchone() == {"count": 1}


@pytest.mark.parametrize("center", HOSTS)
def test_another_data_centre_that_the_callback_names_is_used_from_then_on(
    pool: Pool, zoho: Zoho, connection: Connection, center: str
) -> None:
    accounts, api = HOSTS[center]  # type: ignore[index]
    zoho.token.respond(json={**GRANT, "api_domain": api})
    _enter_client(pool, settings(), data_center="com")
    _connect(pool, settings(), server=accounts)
    let_pass(connection, timedelta(hours=1))
    assert _fetch(pool, settings()) == {"item_id": "7"}
    connecting.disconnect(pool, settings(), ADA)
    assert zoho.hosts == {accounts, api}
    assert zoho.token.call_count == 2


def test_without_an_api_host_in_the_answer_that_of_the_accounts_server_is_called(pool: Pool, zoho: Zoho) -> None:
    zoho.token.respond(json={**GRANT, "api_domain": None})
    _enter_client(pool, settings(), data_center="com")
    _connect(pool, settings(), server="https://accounts.zoho.in")
    assert zoho.hosts == {"https://accounts.zoho.in", "https://www.zohoapis.in"}


@pytest.mark.parametrize(
    "server",
    [
        "https://accounts.zoho.com.evil.example",
        "https://evil.example",
        "http://accounts.zoho.com",
        "https://accounts.zoho.com@evil.example",
        "https://accounts.zoho.com:8443",
        "https://accounts.zoho.com/../evil",
        "HTTPS://accounts.zoho.com",
        "accounts.zoho.com",
        "https://www.zohoapis.com",
    ],
)
def test_a_stranger_named_by_the_callback_is_told_nothing(
    pool: Pool, zoho: Zoho, connection: Connection, server: str
) -> None:
    _enter_client(pool, settings())
    with pytest.raises(ConnectionRefused, match="none of Zoho's"):
        _connect(pool, settings(), server=server)
    assert zoho.hosts == set()
    assert not _detail(pool, settings()).is_connected
    assert connection.execute("SELECT count(*) FROM token_calls").fetchone() == {"count": 0}


def test_a_stranger_named_as_api_host_is_sent_no_token(pool: Pool, zoho: Zoho, connection: Connection) -> None:
    zoho.token.respond(json={**GRANT, "api_domain": "https://evil.example"})
    _enter_client(pool, settings())
    _connect(pool, settings())
    let_pass(connection, timedelta(hours=1))
    _fetch(pool, settings())
    assert zoho.hosts == {"https://accounts.zoho.com", "https://www.zohoapis.com"}


def test_the_accounts_server_of_the_environment_is_believed_and_wins(pool: Pool, zoho: Zoho) -> None:
    chosen = settings(ZOHO_ACCOUNTS_URL="https://accounts.test", ZOHO_API_URL="https://api.test")
    _enter_client(pool, chosen)
    assert connecting.authorise_url(pool, chosen, redirect_uri=CALLBACK, state="s").startswith("https://accounts.test/")
    _connect(pool, chosen, server="https://accounts.test")
    _connect(pool, chosen, server="https://accounts.zoho.eu")
    assert zoho.hosts == {"https://accounts.test", "https://api.test"}


@pytest.mark.parametrize(
    ("status", "body", "error", "told"),
    [
        (200, {"error": "invalid_code"}, ConnectionRefused, "connect again"),
        (200, {"error": "invalid_client"}, ConnectionRefused, "data centre"),
        (200, {"error": "invalid_client_secret"}, ConnectionRefused, "enter the secret"),
        (200, {"error": "invalid_redirect_uri"}, ConnectionRefused, "redirect address"),
        (200, {}, ConnectionRefused, "no access token"),
        (200, {**GRANT, "refresh_token": None}, ConnectionRefused, "no refresh token"),
        (200, {**GRANT, "refresh_token": ""}, ConnectionRefused, "connected apps"),
        (400, THROTTLED, TokenThrottled, "too many requests"),
        (500, {"error": "general_error"}, ZohoUnavailable, "500"),
    ],
)
def test_an_answer_without_both_tokens_is_refused_whatever_its_status(
    pool: Pool, zoho: Zoho, status: int, body: object, error: type[MirrorError], told: str
) -> None:
    zoho.token.respond(status, json=body)
    _enter_client(pool, settings())
    with pytest.raises(error, match=told):
        _connect(pool, settings())
    detail = _detail(pool, settings())
    assert not detail.is_connected
    assert detail.last_error
    assert CODE not in detail.last_error


def test_a_failed_attempt_leaves_the_connection_that_was_there(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    zoho.token.respond(json={"error": "invalid_code"})
    with pytest.raises(ConnectionRefused):
        _connect(pool, settings())
    assert _fetch(pool, settings()) == {"item_id": "7"}
    detail = _detail(pool, settings())
    assert (detail.is_connected, detail.refresh_allowed_at) == (True, None)
    # It still works, so nobody is told that Zoho refuses it.
    assert detail.last_error is None
    zoho.token.respond(json=GRANT)
    _connect(pool, settings())
    assert _detail(pool, settings()).last_error is None


def test_what_zoho_gave_is_kept_though_no_other_connection_is_free(database_url: str, pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    with database.sync_pool(database_url, size=2, name="few") as few, ExitStack() as held:

        def answer(_request: httpx.Request) -> httpx.Response:
            held.enter_context(few.connection())
            return httpx.Response(200, json=GRANT)

        zoho.token.mock(side_effect=answer)
        assert _connect(few, settings()) == ["60011"]
    assert _detail(pool, settings()).is_connected


def test_a_new_consent_ends_the_one_that_it_replaces(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    assert not zoho.revoke.called
    zoho.token.respond(json={**GRANT, "refresh_token": "1000.next"})
    _connect(pool, settings())
    assert _form(zoho.revoke) == {"token": GRANT["refresh_token"]}
    assert _detail(pool, settings()).is_connected


def test_many_who_look_at_the_organisations_leave_connections_for_others(
    database_url: str, pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    connection.execute("UPDATE zoho_connection SET access_token_expires_at = now()")
    zoho.token.respond(json={**GRANT, "access_token": "1000.fresh"})
    with database.sync_pool(database_url, size=4, name="few") as few, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: connecting.organisations(few, settings()), range(8)))
    assert [[each.name for each in organisations] for organisations in found] == [["Shop"]] * 8


def test_connecting_again_does_not_wait_for_what_the_dead_refresh_token_earned(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    zoho.token.respond(json={"error": "invalid_code"})
    for _ in range(4):
        connection.execute("UPDATE zoho_connection SET refresh_allowed_at = 'epoch', access_token = NULL")
        let_pass(connection, timedelta(minutes=11))
        with pytest.raises(NotConnected):
            _fetch(pool, settings())
    detail = _detail(pool, settings())
    assert detail.refresh_allowed_at
    zoho.token.respond(json=GRANT)
    _connect(pool, settings())
    assert _fetch(pool, settings()) == {"item_id": "7"}


def test_consents_count_among_the_calls_that_the_token_endpoint_may_see(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    for _ in range(3):
        _connect(pool, settings())
    with pytest.raises(TokenThrottled, match="connect again in") as caught:
        _connect(pool, settings())
    assert timedelta() < caught.value.retry_after <= timedelta(seconds=30)
    assert zoho.token.call_count == 3


def test_a_token_of_the_settings_does_not_undo_a_connection_made_in_the_browser(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    chosen = settings(ZOHO_REFRESH_TOKEN="1000.of.the.settings")
    _enter_client(pool, chosen)
    _connect(pool, chosen)
    let_pass(connection, timedelta(hours=1))
    _fetch(pool, chosen)
    assert _form(zoho.token)["refresh_token"] == "1000.refresh.beta"


# The organisation


def test_of_several_organisations_one_has_to_be_chosen_before_anything_is_called(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    zoho.organisations.respond(json=TWO_ORGANISATIONS)
    _enter_client(pool, settings())
    assert _connect(pool, settings()) == ["60011", "60022"]
    detail = _detail(pool, settings())
    assert (detail.is_connected, detail.organization_id) == (True, None)
    assert "choose one" in str(detail.what_to_do)
    with pytest.raises(NotConnected, match="no organisation is chosen"):
        _fetch(pool, settings())
    with pytest.raises(ConnectionRefused, match=r"60033 is not one of .* 60011 \(Shop\), 60022 \(Outlet\)"):
        connecting.choose_organisation(pool, settings(), "60033", ADA)
    connecting.choose_organisation(pool, settings(), "60022", ADA)
    _fetch(pool, settings())
    assert zoho.item.calls.last.request.url.params["organization_id"] == "60022"
    assert _audited(connection)[-1] == "zoho.organisation_chosen"


def test_what_is_mirrored_stays_the_organisations_that_it_was_read_from(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    zoho.organisations.respond(json=TWO_ORGANISATIONS)
    _enter_client(pool, settings())
    _connect(pool, settings())
    connecting.choose_organisation(pool, settings(), "60022", ADA)
    # Nothing was read yet: a wrong choice can be mended.
    connecting.choose_organisation(pool, settings(), "60011", ADA)
    connection.execute("INSERT INTO products (zoho_item_id, name) VALUES ('1', 'Mug')")
    with pytest.raises(ConnectionRefused, match="the products here are those of organisation 60011"):
        connecting.choose_organisation(pool, settings(), "60022", ADA)
    # Nor does a consent of somebody else, who reaches only another one, take its place after a disconnect.
    connecting.disconnect(pool, settings(), ADA)
    zoho.organisations.respond(json={"code": 0, "organizations": [{"organization_id": "60022", "name": "Outlet"}]})
    _connect(pool, settings())
    detail = _detail(pool, settings())
    assert detail.organization_id == "60011"
    assert "60011 is not one of" in str(detail.last_error)


def test_the_list_of_organisations_names_none_itself(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    (found,) = connecting.organisations(pool, settings())
    assert (found.name, found.is_default, found.currency_code, found.time_zone) == ("Shop", True, "EUR", "UTC")
    assert "organization_id" not in zoho.organisations.calls.last.request.url.params


def test_calls_for_organisations_count_against_the_quota(pool: Pool, zoho: Zoho, connection: Connection) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    assert connection.execute("SELECT count(*) FROM api_calls").fetchone() == {"count": 2}
    zoho.organisations.respond(429, json={"code": 44})
    with pytest.raises(WorkError, match="quota"):
        connecting.organisations(pool, settings())


def test_the_organisation_of_the_environment_wins(pool: Pool, zoho: Zoho) -> None:
    chosen = settings(ZOHO_ORGANIZATION_ID="60022")
    zoho.organisations.respond(json=TWO_ORGANISATIONS)
    _enter_client(pool, chosen)
    _connect(pool, chosen)
    detail = _detail(pool, chosen)
    assert (detail.organization_id, detail.organization_name, detail.organization_is_set) == ("60022", "Outlet", True)
    with pytest.raises(ConnectionRefused, match="ZOHO_ORGANIZATION_ID=60022"):
        connecting.choose_organisation(pool, chosen, "60011", ADA)
    _fetch(pool, chosen)
    assert zoho.item.calls.last.request.url.params["organization_id"] == "60022"


def test_an_organisation_of_the_environment_that_is_not_reached_is_told(pool: Pool, zoho: Zoho) -> None:
    chosen = settings(ZOHO_ORGANIZATION_ID="60099")
    _enter_client(pool, chosen)
    _connect(pool, chosen)
    assert "60099 is not one of" in str(_detail(pool, chosen).last_error)
    assert zoho.organisations.call_count == 1


def test_a_consent_of_somebody_else_does_not_keep_an_organisation_out_of_reach(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    others = {"code": 0, "organizations": [{"organization_id": "1", "name": "A"}, {"organization_id": "2"}]}
    zoho.organisations.respond(json=others)
    connecting.disconnect(pool, settings(), ADA)
    _connect(pool, settings())
    assert _detail(pool, settings()).organization_id is None


def test_a_list_that_cannot_be_had_leaves_the_connection_and_says_so(pool: Pool, zoho: Zoho) -> None:
    zoho.organisations.respond(500, json={"code": 1000})
    _enter_client(pool, settings())
    with pytest.raises(ConnectionRefused, match="Zoho is connected, but its organisations could not be read"):
        _connect(pool, settings())
    assert _detail(pool, settings()).is_connected


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"code": 57}),
        httpx.Response(404, json={"code": 5}),
        httpx.Response(200, json={"code": 0, "user": []}),
        httpx.Response(200, text="<html>"),
        httpx.Response(429, json={"code": 44}),
        httpx.ConnectError("refused"),
    ],
)
def test_who_consented_may_stay_unknown(pool: Pool, zoho: Zoho, answer: httpx.Response | Exception) -> None:
    zoho.user.side_effect = [answer]
    _enter_client(pool, settings())
    assert _connect(pool, settings()) == ["60011"]
    detail = _detail(pool, settings())
    assert (detail.is_connected, detail.connected_as) == (True, None)
    assert zoho.token.call_count == 1


# Refreshing


def test_a_refresh_that_is_asked_for_replaces_a_token_that_is_good(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    connecting.refresh_now(pool, settings(), ADA)
    assert _form(zoho.token)["grant_type"] == "refresh_token"
    assert zoho.token.call_count == 2
    assert _audited(connection)[-1] == "zoho.refreshed"


def test_a_refresh_that_is_asked_for_keeps_the_rules_and_says_how_long_to_wait(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    for _ in range(2):
        zoho.token.respond(json={**GRANT, "access_token": f"1000.access.{zoho.token.call_count}"})
        connecting.refresh_now(pool, settings(), ADA)
    with pytest.raises(TokenThrottled, match=r"asked again in \d+ s") as caught:
        connecting.refresh_now(pool, settings(), ADA)
    assert timedelta() < caught.value.retry_after <= timedelta(seconds=30)
    assert zoho.token.call_count == 3
    assert _detail(pool, settings()).refresh_allowed_at
    assert _audited(connection).count("zoho.refreshed") == 2
    # The good token is still there for those who work.
    assert _fetch(pool, settings()) == {"item_id": "7"}


def test_the_last_error_is_seen_until_a_success(pool: Pool, zoho: Zoho, connection: Connection) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    zoho.token.respond(json={"error": "invalid_client_secret"})
    with pytest.raises(NotConnected):
        connecting.refresh_now(pool, settings(), ADA)
    assert "invalid_client_secret" in str(_detail(pool, settings()).last_error)
    _enter_client(pool, settings(), client_secret="another")
    zoho.token.respond(json=GRANT)
    let_pass(connection, timedelta(minutes=1))
    connecting.refresh_now(pool, settings(), ADA)
    assert _detail(pool, settings()).last_error is None
    assert _form(zoho.token)["client_secret"] == "another"


def test_after_a_refresh_with_a_new_key_in_front_the_old_key_can_go(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    connecting.refresh_now(pool, settings(ENCRYPTION_KEYS=f"{KEYS[1]},{KEYS[0]}"), ADA)
    let_pass(connection, timedelta(hours=1))
    _fetch(pool, settings(ENCRYPTION_KEYS=KEYS[1]))
    assert _form(zoho.token)["client_secret"] == SECRET


# Disconnecting


def test_disconnecting_revokes_in_the_body_and_keeps_client_and_organisation(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    assert connecting.disconnect(pool, settings(), ADA) is None
    assert _form(zoho.revoke) == {"token": "1000.refresh.beta"}
    assert not zoho.revoke.calls.last.request.url.query
    detail = _detail(pool, settings())
    assert (detail.is_connected, detail.connected_as, detail.scopes) == (False, None, None)
    assert (detail.client_id, detail.has_client_secret, detail.organization_id) == ("1000.CLIENT", True, "60011")
    assert "connect here" in str(detail.what_to_do)
    with pytest.raises(NotConnected, match="connect in the console"):
        _fetch(pool, settings())
    assert _audited(connection)[-1] == "zoho.disconnected"
    with pytest.raises(ConnectionRefused, match="nothing to disconnect"):
        connecting.disconnect(pool, settings(), ADA)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.Response(200, json={"error": "invalid_token 1000.refresh.beta"}),
        httpx.Response(400, json={"error": "invalid_token"}),
        httpx.Response(502, text="<html>"),
    ],
)
def test_tokens_are_forgotten_even_where_zoho_does_not_confirm(
    pool: Pool, zoho: Zoho, answer: httpx.Response | Exception
) -> None:
    zoho.revoke.side_effect = [answer]
    _enter_client(pool, settings())
    _connect(pool, settings())
    warning = connecting.disconnect(pool, settings(), ADA)
    assert "did not confirm" in str(warning)
    assert "1000.refresh.beta" not in str(warning)
    assert not _detail(pool, settings()).is_connected


def test_tokens_that_no_key_reads_can_be_disconnected(pool: Pool, zoho: Zoho) -> None:
    _enter_client(pool, settings())
    _connect(pool, settings())
    other = settings(ENCRYPTION_KEYS=KEYS[1])
    assert "ENCRYPTION_KEYS" in str(_detail(pool, other).what_to_do)
    assert "ENCRYPTION_KEYS" in str(connecting.disconnect(pool, other, ADA))
    assert zoho.revoke.call_count == 0
    assert not _detail(pool, other).is_connected


@pytest.mark.parametrize("was_used", [True, False])
def test_a_token_of_the_settings_does_not_reconnect_by_itself_after_a_disconnect(
    pool: Pool, zoho: Zoho, *, was_used: bool
) -> None:
    chosen = settings(
        ZOHO_REFRESH_TOKEN="1000.of.the.settings",
        ZOHO_ORGANIZATION_ID="60011",
        ZOHO_CLIENT_ID="1000.SET",
        ZOHO_CLIENT_SECRET="x",
    )
    zoho.token.respond(json={**GRANT, "refresh_token": None})
    if was_used:
        _fetch(pool, chosen)
    connecting.disconnect(pool, chosen, ADA)
    assert _form(zoho.revoke) == {"token": "1000.of.the.settings"}
    with pytest.raises(NotConnected, match="an operator disconnected; connect in the console, or set another token"):
        _fetch(pool, chosen)
    assert "another ZOHO_REFRESH_TOKEN" in str(_detail(pool, chosen).what_to_do)
    again = settings(
        ZOHO_REFRESH_TOKEN="1000.another", ZOHO_ORGANIZATION_ID="60011", ZOHO_CLIENT_ID="a", ZOHO_CLIENT_SECRET="b"
    )
    assert _fetch(pool, again) == {"item_id": "7"}


# Runs


def test_runs_wait_for_an_organisation_after_a_consent(pool: Pool, zoho: Zoho, connection: Connection) -> None:
    zoho.organisations.respond(json=TWO_ORGANISATIONS)
    _enter_client(pool, settings())
    seen = [runs.prospects(connection).is_connected]
    _connect(pool, settings())
    seen.append(runs.prospects(connection).is_connected)
    connecting.choose_organisation(pool, settings(), "60011", ADA)
    seen.append(runs.prospects(connection).is_connected)
    connecting.disconnect(pool, settings(), ADA)
    seen.append(runs.prospects(connection).is_connected)
    assert seen == [False, False, True, False]


def test_the_organisation_of_the_settings_is_known_to_processes_without_it(pool: Pool, connection: Connection) -> None:
    with answering(respx.MockRouter()) as nobody, ZohoClient(pool, settings(ZOHO_ORGANIZATION_ID="60077"), nobody):
        pass
    assert zoho_connection.read(connection).organization_id == "60077"
    connecting.require_organisation(connection, settings())


def test_without_any_organisation_there_is_a_word_on_where_to_get_one(connection: Connection) -> None:
    with pytest.raises(ConnectionRefused, match="ZOHO_ORGANIZATION_ID"):
        connecting.require_organisation(connection, settings())


def test_whatever_goes_wrong_no_secret_is_in_the_error(pool: Pool, zoho: Zoho) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.content.decode()))
        return httpx.Response(200, json={"error": f"no {form}", "error_description": " ".join(form.values())})

    _enter_client(pool, settings())
    zoho.token.side_effect = echo
    with pytest.raises(ConnectionRefused) as caught:
        _connect(pool, settings())
    told = str(caught.value) + str(_detail(pool, settings()))
    with suppress(WorkError):
        _fetch(pool, settings())
    assert CODE not in told
    assert SECRET not in told


@pytest.mark.parametrize("around", ["\ufeff{}\r\n", '"{}"', "\u201c{}\u201d ", " '{}'\n", "\u200b{}"])
def test_what_pasting_adds_around_client_id_and_secret_is_not_sent(pool: Pool, zoho: Zoho, around: str) -> None:
    _enter_client(
        pool,
        settings(),
        data_center=around.format("eu"),
        client_id=around.format("1000.CLIENT"),
        client_secret=around.format(SECRET),
    )
    _connect(pool, settings(), server="https://accounts.zoho.eu")
    form = _form(zoho.token)
    assert (form["client_id"], form["client_secret"]) == ("1000.CLIENT", SECRET)


@pytest.mark.parametrize(("field", "named"), [("client_id", "the client id"), ("client_secret", "the client secret")])
@pytest.mark.parametrize("value", ["1000.a\0b", "1000.a\nb", '"1000.ab', "1000.\u200bab"])
def test_what_cannot_belong_to_a_pasted_value_is_refused_by_name(
    pool: Pool, field: str, named: str, value: str
) -> None:
    with pytest.raises(ConnectionRefused, match=named) as caught:
        _enter_client(pool, settings(), **{field: value})
    assert value not in str(caught.value)
