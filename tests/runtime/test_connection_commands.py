"""A mirror that was connected in the browser: its commands and processes need nothing of Zoho in their environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from processors.errors import NotConnected
from processors.runtime import procfile
from processors.runtime.local import LocalRedis
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import connection as connecting
from processors.zoho.client import ZohoClient
from simulator import (
    CLIENT_ID,
    CLIENT_SECRET,
    ORGANIZATION_ID,
    USER_EMAIL,
    Catalogue,
    Limits,
    Organization,
    Zoho,
    serve,
)
from tests.conftest import ENCRYPTION_KEY

ADA = Requester("console", "ada")
CALLBACK = "https://mirror.example/oauth/zoho/callback"
ITEMS = 30


class Shop:
    """A mirror whose environment names Zoho's accounts server, as that is the simulator's, and nothing more of Zoho."""

    def __init__(self, pool: Pool, database_url: str, redis_url: str, zoho: Zoho, zoho_url: str) -> None:
        self.pool, self.zoho = pool, zoho
        self.environ = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "ZOHO_ACCOUNTS_URL": zoho_url,
        }
        self.settings = Settings.load(environ=self.environ)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        bare = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        return subprocess.run(
            [sys.executable, "-m", "processors", *arguments],
            env=bare | self.environ,
            cwd=procfile.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def consent(self, decision: str = "accept") -> dict[str, str]:
        """Go to the consent page as a browser would, decide, and return what the callback is told."""
        url = connecting.authorise_url(self.pool, self.settings, redirect_uri=CALLBACK, state="a state")
        with httpx.Client() as browser:
            page = browser.get(url).text
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page))
            form = {name: unescape(value) for name, value in fields.items()} | {"decision": decision}
            answer = browser.post(str(httpx.URL(url).join("/oauth/v2/auth")), data=form)
        assert answer.status_code == 302
        return dict(parse_qsl(urlsplit(answer.headers["Location"]).query))

    def connect(self) -> list[str]:
        told = self.consent()
        assert told["state"] == "a state"
        found = connecting.connect(
            self.pool,
            self.settings,
            code=told["code"],
            redirect_uri=CALLBACK,
            accounts_server=told["accounts-server"],
            requester=ADA,
        )
        return [each.organization_id for each in found]


@pytest.fixture
def shop(pool: Pool, database_url: str, redis_server: LocalRedis) -> Iterator[Shop]:
    zoho = Zoho(Catalogue.generate(ITEMS), limits=Limits.none())
    with serve(zoho) as url:
        shop = Shop(pool, database_url, redis_server.url, zoho, url)
        connecting.keep_client(
            pool, shop.settings, data_center="in", client_id=CLIENT_ID, client_secret=CLIENT_SECRET, requester=ADA
        )
        yield shop


def _products(connection: Connection) -> int:
    rows = connection.execute("SELECT count(*) FROM products").fetchall()
    count: int = rows[0]["count"]
    return count


def test_a_mirror_connected_in_the_browser_is_complete_without_any_credentials_in_its_environment(
    shop: Shop, connection: Connection
) -> None:
    assert shop.connect() == [ORGANIZATION_ID]
    detail = connecting.detail(connection, shop.settings)
    assert (detail.connected_as, detail.organization_name) == (USER_EMAIL, "Simulated Traders")
    done = shop.run("reconcile", "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _products(connection) == ITEMS
    assert shop.zoho.tokens.calls == 1
    warning = connecting.disconnect(shop.pool, shop.settings, ADA)
    assert warning is None
    with ZohoClient(shop.pool, shop.settings) as client, pytest.raises(NotConnected):
        client.item("1")
    # What was mirrored stays.
    assert _products(connection) == ITEMS


def test_an_item_is_fetched_as_soon_as_one_of_several_organisations_is_chosen(shop: Shop) -> None:
    shop.zoho.other_organizations = (Organization("60099", "Second Shop"),)
    item_id = shop.zoho.catalogue.all()[0].item_id
    assert shop.connect() == [ORGANIZATION_ID, "60099"]
    done = shop.run("fetch", item_id)
    assert done.returncode == 1
    assert "no organisation is known" in done.stderr
    connecting.choose_organisation(shop.pool, shop.settings, ORGANIZATION_ID, ADA)
    done = shop.run("fetch", item_id, "--json")
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (0, "created")


@pytest.mark.parametrize("command", [("reconcile",), ("fetch", "1")])
def test_a_command_that_knows_no_organisation_says_where_to_get_one(
    shop: Shop, connection: Connection, command: tuple[str, ...]
) -> None:
    done = shop.run(*command)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "no organisation is known: connect Zoho in the console and choose one there, "
        "or set ZOHO_ORGANIZATION_ID to its number"
    )
    assert connection.execute("SELECT FROM reconciliation_runs").fetchall() == []


def test_who_rejects_on_zohos_page_sends_no_code(shop: Shop) -> None:
    assert shop.consent("reject") == {"error": "access_denied", "state": "a state"}


def test_a_revoked_connection_is_dead_at_zoho_too(shop: Shop, connection: Connection) -> None:
    shop.connect()
    with ZohoClient(shop.pool, shop.settings) as client:
        token = client._tokens.access_token().value
    connecting.disconnect(shop.pool, shop.settings, ADA)
    assert shop.zoho.tokens.scopes_of(token) is None
    row = connection.execute("SELECT detail FROM audit_log WHERE action = 'zoho.disconnected'").fetchone()
    assert row == {"detail": {"revoked": True}}
