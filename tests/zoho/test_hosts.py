"""A secret is sent to Zoho's hosts and to those that the environment names, whatever the database says."""

from __future__ import annotations

import pytest
import respx

from processors.errors import NotConnected
from processors.settings import HOSTS, Settings
from processors.store import zoho_connection
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import connection as connecting
from processors.workflows import insights
from processors.zoho import hosts
from processors.zoho.client import ZohoClient
from tests.zoho.support import answering, settings

KNOWN = [host for pair in HOSTS.values() for host in pair]
STRANGE = [
    "https://evil.example",
    "http://accounts.zoho.com",
    "https://accounts.zoho.com.evil.example",
    "https://accounts.zoho.com@evil.example",
    "https://evil.example#https://accounts.zoho.com",
    "https://accounts.zoho.com:8443",
    "https://accounts.zoho.com/evil",
    "https://accounts.zoho.com\n.evil.example",
    "//evil.example",
    "",
]


def chosen(**changes: str) -> Settings:
    return settings(ZOHO_ACCOUNTS_URL="", ZOHO_API_URL="", **changes)


@pytest.mark.parametrize("url", [url for url in STRANGE if url])
@pytest.mark.parametrize("column", ["accounts_url", "api_domain"])
def test_a_host_that_is_not_zohos_is_sent_nothing(pool: Pool, connection: Connection, column: str, url: str) -> None:
    with respx.mock(assert_all_called=False) as router:
        token = router.post(path="/oauth/v2/token").respond(json={"access_token": "1000.a", "expires_in": 3600})
        item = router.get(path="/inventory/v1/items/7").respond(json={"code": 0, "item": {"item_id": "7"}})
        with ZohoClient(pool, chosen(), answering(router)) as client:
            client.item("7")
            connection.execute(f"UPDATE zoho_connection SET {column} = %s", (url,))
            sent = token.call_count + item.call_count
            # The access token may be good, or have to be refreshed.
            for expiry in ("1 hour", "-1 hour"):
                connection.execute(f"UPDATE zoho_connection SET access_token_expires_at = now() + interval '{expiry}'")
                with pytest.raises(NotConnected) as caught:
                    client.item("7")
                assert repr(url)[1:20] in str(caught.value)
            assert token.call_count + item.call_count == sent
        problems = insights.problems(insights.overview(connection))
        assert [each.cause for each in problems if each.cause.startswith("zoho.")] == ["zoho.unknown_host"]
        what_to_do = connecting.detail(connection, chosen()).what_to_do
        assert what_to_do is not None
        assert "not Zoho's" in what_to_do
        # It can be left behind, with nothing sent there.
        revoke = router.post("https://accounts.zoho.com/oauth/v2/token/revoke").respond(json={"status": "success"})
        warning = connecting.disconnect(pool, chosen(), Requester("console", "ada"))
        assert (warning is None, revoke.called) == ((True, True) if column == "api_domain" else (False, False))
        assert zoho_connection.read(connection).refresh_token is None


@pytest.mark.parametrize("url", KNOWN)
def test_zohos_own_hosts_are_used(connection: Connection, url: str) -> None:
    is_api = url in dict(HOSTS.values()).values()
    connection.execute(f"UPDATE zoho_connection SET {'api_domain' if is_api else 'accounts_url'} = %s", (url,))
    stored = zoho_connection.read(connection)
    assert url == (hosts.api_url if is_api else hosts.accounts_url)(chosen(), stored)
    assert hosts.unknown_host(chosen(), stored) is None


def test_hosts_of_the_environment_win_over_whatever_is_stored(connection: Connection) -> None:
    connection.execute(
        "UPDATE zoho_connection SET accounts_url = 'https://evil.example', api_domain = 'https://x.example'"
    )
    stored = zoho_connection.read(connection)
    mine = settings(ZOHO_ACCOUNTS_URL="https://accounts.proxy", ZOHO_API_URL="https://api.proxy")
    assert (hosts.accounts_url(mine, stored), hosts.api_url(mine, stored)) == (
        "https://accounts.proxy",
        "https://api.proxy",
    )


@pytest.mark.parametrize("url", STRANGE)
def test_an_api_host_that_comes_with_a_token_is_not_kept_unless_it_is_zohos(url: str) -> None:
    assert hosts.api_domain(chosen(), url) is None
    assert hosts.api_domain(settings(ZOHO_ACCOUNTS_URL="https://accounts.proxy"), url) is None
