"""The accounts server: codes, tokens, refusals that come with HTTP 200, and its throttle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from simulator import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, Catalogue, Fault, ManualClock, Zoho, in_process

CLIENT = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
CALLBACK = "https://mirror.example/oauth/zoho/callback"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def zoho(clock: ManualClock) -> Zoho:
    return Zoho(Catalogue(clock=clock), clock=clock)


@pytest.fixture
def client(zoho: Zoho) -> Iterator[httpx.Client]:
    with in_process.client(zoho) as client:
        yield client


def _refresh(client: httpx.Client, **changes: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": REFRESH_TOKEN, **CLIENT, **changes}
    return client.post("/oauth/v2/token", data=form)


def _exchange(client: httpx.Client, code: str, **more: str) -> httpx.Response:
    form = {"grant_type": "authorization_code", "code": code, **CLIENT, **more}
    return client.post("/oauth/v2/token", data=form)


def test_a_refresh_gives_an_access_token_and_no_refresh_token(client: httpx.Client, zoho: Zoho) -> None:
    body = _refresh(client).json()
    assert set(body) == {"access_token", "api_domain", "token_type", "expires_in"}
    assert (body["api_domain"], body["token_type"], body["expires_in"]) == (
        "http://zoho.test",
        "Bearer",
        3600,
    )
    assert zoho.token_refreshes == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"refresh_token": "1000.wrong"}, "invalid_code"),
        ({"client_id": "1000.OTHERDC"}, "invalid_client"),
        ({"client_secret": "wrong"}, "invalid_client_secret"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
    ],
)
def test_a_refusal_comes_with_http_200(client: httpx.Client, zoho: Zoho, changes: dict[str, str], error: str) -> None:
    response = _refresh(client, **changes)
    assert (response.status_code, response.json()) == (200, {"error": error})
    assert (zoho.tokens.calls, zoho.token_refreshes) == (1, 0)


def test_the_eleventh_token_in_ten_minutes_is_denied_until_they_are_over(
    client: httpx.Client, clock: ManualClock
) -> None:
    for _ in range(10):
        assert "access_token" in _refresh(client).json()
        clock.advance(timedelta(seconds=30))
    response = _refresh(client)
    assert response.status_code == 400
    assert response.json()["error"] == "Access Denied"
    assert response.json()["status"] == "failure"
    clock.advance(timedelta(minutes=4))
    assert _refresh(client).status_code == 400
    clock.advance(timedelta(minutes=1))
    assert "access_token" in _refresh(client).json()


def test_the_throttle_can_be_forgotten(client: httpx.Client, zoho: Zoho) -> None:
    zoho.tokens.issues_per_window = 1
    assert [_refresh(client).status_code for _ in range(2)] == [200, 400]
    zoho.tokens.forget_throttle()
    assert _refresh(client).status_code == 200


def test_consent_leads_back_with_a_code_that_works_once(client: httpx.Client, zoho: Zoho) -> None:
    parameters = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": CALLBACK,
        "scope": "ZohoInventory.items.READ,ZohoInventory.settings.READ",
        "access_type": "offline",
        "prompt": "consent",
        "state": '"><script>',
    }
    page = client.get("/oauth/v2/auth", params=parameters)
    assert "Accept" in page.text
    assert "<script>" not in page.text
    fields = {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', page.text)}
    back = client.post("/oauth/v2/auth", data={**fields, "decision": "accept"})
    assert back.status_code == 302
    location = urlsplit(back.headers["Location"])
    answer = dict(parse_qsl(location.query))
    assert f"{location.scheme}://{location.netloc}{location.path}" == CALLBACK
    assert set(answer) == {"code", "location", "accounts-server", "state"}
    assert (answer["accounts-server"], answer["state"]) == ("http://zoho.test", '"><script>')
    body = _exchange(client, answer["code"], redirect_uri=CALLBACK).json()
    assert zoho.tokens.scopes_of(body["access_token"]) == frozenset(parameters["scope"].split(","))
    assert "access_token" in _refresh(client, refresh_token=body["refresh_token"]).json()
    assert _exchange(client, answer["code"], redirect_uri=CALLBACK).json() == {"error": "invalid_code"}


def test_a_rejected_consent_leads_back_with_an_error(client: httpx.Client) -> None:
    form = {
        "client_id": CLIENT_ID,
        "redirect_uri": CALLBACK,
        "scope": "a",
        "state": "s",
        "decision": "reject",
    }
    assert client.post("/oauth/v2/auth", data=form).headers["Location"] == (f"{CALLBACK}?error=access_denied&state=s")


@pytest.mark.parametrize("missing", ["client_id", "redirect_uri", "scope"])
def test_an_incomplete_consent_request_is_refused(client: httpx.Client, missing: str) -> None:
    parameters = {"client_id": CLIENT_ID, "redirect_uri": CALLBACK, "scope": "a"}
    del parameters[missing]
    assert client.get("/oauth/v2/auth", params=parameters).status_code == 400
    assert client.post("/oauth/v2/auth", data=parameters).status_code == 400


def test_a_code_dies_after_two_minutes(client: httpx.Client, zoho: Zoho, clock: ManualClock) -> None:
    code = zoho.tokens.issue_code()
    clock.advance(timedelta(minutes=2))
    assert _exchange(client, code).json() == {"error": "invalid_code"}


def test_a_code_is_tied_to_its_redirect_uri(client: httpx.Client, zoho: Zoho) -> None:
    code = zoho.tokens.issue_code(redirect_uri=CALLBACK)
    assert _exchange(client, code, redirect_uri="https://other.example/").json() == {"error": "invalid_code"}


def test_a_self_clients_code_needs_no_redirect_uri(client: httpx.Client, zoho: Zoho) -> None:
    assert "refresh_token" in _exchange(client, zoho.tokens.issue_code()).json()


def test_only_offline_access_gives_a_refresh_token(client: httpx.Client, zoho: Zoho) -> None:
    body = _exchange(client, zoho.tokens.issue_code(is_offline=False)).json()
    assert "refresh_token" not in body
    assert zoho.tokens.scopes_of(body["access_token"])


def test_the_twenty_first_refresh_token_silently_ends_the_oldest(client: httpx.Client, zoho: Zoho) -> None:
    for _ in range(19):
        _exchange(client, zoho.tokens.issue_code())
    assert "access_token" in _refresh(client).json()
    _exchange(client, zoho.tokens.issue_code())
    assert _refresh(client).json() == {"error": "invalid_code"}


def test_the_thirty_first_access_token_ends_the_first(client: httpx.Client, zoho: Zoho) -> None:
    zoho.tokens.issues_per_window = 100
    tokens = [_refresh(client).json()["access_token"] for _ in range(31)]
    assert zoho.tokens.scopes_of(tokens[0]) is None
    assert zoho.tokens.scopes_of(tokens[1])


def test_a_revoked_refresh_token_takes_its_access_tokens_along(client: httpx.Client, zoho: Zoho) -> None:
    token = _refresh(client).json()["access_token"]
    assert client.post("/oauth/v2/token/revoke", params={"token": REFRESH_TOKEN}).json() == {"status": "success"}
    assert zoho.tokens.scopes_of(token) is None
    assert _refresh(client).json() == {"error": "invalid_code"}
    assert "error" in client.post("/oauth/v2/token/revoke", data={"token": REFRESH_TOKEN}).json()


def test_expired_access_tokens_leave_the_refresh_token_good(client: httpx.Client, zoho: Zoho) -> None:
    token = _refresh(client).json()["access_token"]
    zoho.tokens.expire_access_tokens()
    assert zoho.tokens.scopes_of(token) is None
    assert "access_token" in _refresh(client).json()


def test_faults_befall_the_token_endpoint_too(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault("/oauth/v2/token", status=200, body='{"error":"invalid_code"}', times=1))
    assert _refresh(client).json() == {"error": "invalid_code"}
    assert "access_token" in _refresh(client).json()
    assert zoho.calls("/oauth/*") == 2


def test_the_server_list_names_the_simulator(client: httpx.Client) -> None:
    assert client.get("/oauth/serverinfo").json()["locations"] == {"us": "http://zoho.test"}
