"""Zoho's answers by hand, Zoho as the simulator, and other processes that call it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import respx

from processors.settings import Settings
from processors.store.database import Pool
from processors.zoho.client import ZohoClient
from processors.zoho.oauth import TokenSource
from simulator import Catalogue, Limits, Zoho, serve
from tests.zoho.support import API, TOKEN_URL, answering, settings


@pytest.fixture
def router() -> respx.MockRouter:
    """Answers in Zoho's place; the accounts server gives a token unless a test says otherwise."""
    router = respx.MockRouter(assert_all_called=False)
    router.post(TOKEN_URL, name="token").respond(json={"access_token": "1000.first", "expires_in": 3600})
    reached = [{"organization_id": "60001", "name": "Shop"}, {"organization_id": "60002", "name": "Other"}]
    router.get(url__startswith=f"{API}/inventory/v1/organizations", name="organizations").respond(
        json={"code": 0, "organizations": reached}
    )
    return router


@pytest.fixture
def http(router: respx.MockRouter) -> Iterator[httpx.Client]:
    with answering(router) as http:
        yield http


@pytest.fixture
def connected() -> Settings:
    return settings()


@pytest.fixture
def tokens(pool: Pool, connected: Settings, http: httpx.Client) -> TokenSource:
    return TokenSource(pool, connected, http)


@pytest.fixture
def client(pool: Pool, connected: Settings, http: httpx.Client) -> ZohoClient:
    return ZohoClient(pool, connected, http)


@pytest.fixture
def zoho() -> Zoho:
    """The simulator's Zoho with ten items; `zoho_url` serves it."""
    return Zoho(Catalogue.generate(10), limits=Limits.none())


@pytest.fixture
def zoho_url(zoho: Zoho) -> Iterator[str]:
    with serve(zoho) as url:
        yield url
