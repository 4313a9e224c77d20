"""A connection is replaced by one that can do its work, from wherever the other one comes; else it stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import respx

from processors.errors import ConnectionRefused, NotConnected
from processors.settings import Settings
from processors.store import zoho_connection
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import connection as connecting
from processors.workflows import insights
from processors.zoho import scopes, token_endpoint
from processors.zoho.client import ZohoClient
from processors.zoho.connecting import SCOPES, SCOPES_WITH_WEBHOOKS
from tests.zoho.support import KEYS, let_pass

ADA = Requester("console", "ada")
CALLBACK = "https://mirror.example/oauth/zoho/callback"
PRESENT, NEXT = "1000.present", "1000.next"


class Zoho:
    """Zoho with two logins, whose tokens reach what a test says."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.reached = {PRESENT: ["60011"], NEXT: ["60011"]}
        self.granted: dict[str, str | None] = {PRESENT: SCOPES, NEXT: SCOPES}
        self.consents = PRESENT
        self.revoked: list[str] = []
        self.refreshed: list[str] = []
        self.answer_of: dict[str, httpx.Response] = {}
        router.post(path="/oauth/v2/token/revoke").mock(side_effect=self._revoke)
        router.post(path="/oauth/v2/token").mock(side_effect=self._token)
        router.get(path__startswith="/inventory/v1/").mock(side_effect=self._api)

    def _token(self, request: httpx.Request) -> httpx.Response:
        form = {key: values[0] for key, values in parse_qs(request.content.decode()).items()}
        refresh_token = form.get("refresh_token", self.consents)
        if refresh_token not in self.reached:
            return httpx.Response(200, json={"error": "invalid_code"})
        self.refreshed.append(refresh_token)
        answer = {"access_token": f"access.{refresh_token}", "expires_in": 3600}
        if "code" in form:
            answer |= {"refresh_token": refresh_token}
        if self.granted[refresh_token] is not None:
            answer |= {"scope": str(self.granted[refresh_token])}
        return httpx.Response(200, json=answer)

    def _revoke(self, request: httpx.Request) -> httpx.Response:
        self.revoked.append(parse_qs(request.content.decode())["token"][0])
        return httpx.Response(200, json={"status": "success"})

    def _api(self, request: httpx.Request) -> httpx.Response:
        path = urlsplit(str(request.url)).path.removeprefix("/inventory/v1")
        reached = self.reached[request.headers["Authorization"].removeprefix("Zoho-oauthtoken access.")]
        if path in self.answer_of and "next" in request.headers["Authorization"]:
            return self.answer_of[path]
        if path == "/organizations":
            found = [{"organization_id": each, "name": f"Shop {each}"} for each in reached]
            return httpx.Response(200, json={"code": 0, "organizations": found})
        if request.url.params.get("organization_id") not in reached:
            return httpx.Response(400, json={"code": 6041, "message": "not associated"})
        return httpx.Response(200, json={"code": 0, "items": [], "item": {"item_id": "7"}, "user": {"name": "Ada"}})


@pytest.fixture
def zoho() -> Iterator[Zoho]:
    with respx.mock(assert_all_called=False) as router:
        yield Zoho(router)


def settings(**environ: str) -> Settings:
    client = {"ZOHO_CLIENT_ID": "1000.CLIENT", "ZOHO_CLIENT_SECRET": "secret"}
    return Settings.load(environ={"ENCRYPTION_KEYS": KEYS[0], **client, **environ})


def consent(pool: Pool, chosen: Settings | None = None) -> None:
    connecting.connect(
        pool, chosen or settings(), code="1000.code", redirect_uri=CALLBACK, accounts_server=None, requester=ADA
    )


def used(pool: Pool) -> str:
    """Return the refresh token that is stored."""
    with pool.connection() as connected:
        stored = zoho_connection.read(connected)
    box = token_endpoint.secret_box(settings())
    assert box is not None
    assert stored.refresh_token is not None
    return box.decrypt(stored.refresh_token, zoho_connection.place_of("refresh_token"))


def another_login(zoho: Zoho) -> None:
    zoho.reached[NEXT] = ["60022"]


def fewer_scopes(zoho: Zoho) -> None:
    zoho.granted[NEXT] = "ZohoInventory.settings.READ"


def no_scope_for_items(zoho: Zoho) -> None:
    zoho.granted[NEXT] = None
    zoho.answer_of["/items"] = httpx.Response(401, json={"code": 57, "message": "You are not authorized"})


def no_scope_for_organisations(zoho: Zoho) -> None:
    zoho.granted[NEXT] = None
    zoho.answer_of["/organizations"] = httpx.Response(401, json={"code": 57, "message": "You are not authorized"})


def no_right_to_items(zoho: Zoho) -> None:
    zoho.answer_of["/items"] = httpx.Response(400, json={"code": 6041, "message": "not associated"})


POOR: dict[str, tuple[Callable[[Zoho], None], str]] = {
    "another login": (another_login, r"organisation 60011 is not one of .* 60022 \(Shop 60022\)"),
    "fewer scopes": (fewer_scopes, r"it lacks ZohoInventory\.items\.READ"),
    "no scope for items": (no_scope_for_items, r"it lacks ZohoInventory\.items\.READ"),
    "no scope for organisations": (no_scope_for_organisations, r"it lacks ZohoInventory\.settings\.READ"),
    "no right to items": (no_right_to_items, "6041"),
}


@pytest.mark.parametrize(("poor", "told"), POOR.values(), ids=POOR)
def test_a_consent_that_cannot_do_the_work_of_the_present_one_does_not_replace_it(
    pool: Pool, zoho: Zoho, connection: Connection, poor: Callable[[Zoho], None], told: str
) -> None:
    consent(pool)
    before = connection.execute("SELECT * FROM zoho_connection").fetchall()
    poor(zoho)
    zoho.consents = NEXT
    with pytest.raises(ConnectionRefused, match=f"the present connection, which stays: .*{told}"):
        consent(pool)
    assert connection.execute("SELECT * FROM zoho_connection").fetchall() == before
    # The one that nobody keeps does not stay good, nor push others out.
    assert zoho.revoked == [NEXT]
    with ZohoClient(pool, settings()) as client:
        assert client.item("7") == {"item_id": "7"}


def test_a_consent_that_can_replaces_it_and_ends_it(pool: Pool, zoho: Zoho) -> None:
    consent(pool)
    zoho.consents, zoho.reached[NEXT] = NEXT, ["60022", "60011"]
    consent(pool)
    assert (used(pool), zoho.revoked) == (NEXT, [PRESENT])


def test_a_consent_that_cannot_be_tried_now_replaces_nothing(pool: Pool, zoho: Zoho) -> None:
    consent(pool)
    zoho.consents, zoho.answer_of["/organizations"] = NEXT, httpx.Response(500)
    with pytest.raises(ConnectionRefused, match="could not be tried out, and the present connection stays"):
        consent(pool)
    assert used(pool) == PRESENT


def test_after_a_disconnect_any_consent_is_taken(pool: Pool, zoho: Zoho) -> None:
    consent(pool)
    connecting.disconnect(pool, settings(), ADA)
    another_login(zoho)
    zoho.consents = NEXT
    consent(pool)
    assert used(pool) == NEXT


def test_connecting_again_asks_for_what_the_present_connection_can_do(pool: Pool, zoho: Zoho) -> None:
    zoho.granted[PRESENT] = SCOPES_WITH_WEBHOOKS
    consent(pool)
    url = connecting.authorise_url(pool, settings(), redirect_uri=CALLBACK, state="s")
    assert set(parse_qs(urlsplit(url).query)["scope"][0].split(",")) == set(SCOPES_WITH_WEBHOOKS.split(","))
    zoho.consents = NEXT
    with pytest.raises(ConnectionRefused, match=r"it lacks ZohoInventory\.settings\.ALL"):
        consent(pool)
    zoho.granted[NEXT] = "ZohoInventory.FullAccess.all"
    consent(pool)
    assert used(pool) == NEXT


# The same by the environment


def start(pool: Pool, **environ: str) -> None:
    """Let a process with these settings call Zoho."""
    with ZohoClient(pool, settings(ZOHO_ORGANIZATION_ID="60011", **environ)) as client:
        client.item("7")


@pytest.mark.parametrize(("poor", "told"), POOR.values(), ids=POOR)
@pytest.mark.parametrize("way", ["a setting", "a consent"])
def test_a_token_of_the_settings_that_cannot_do_the_work_of_the_present_one_does_not_replace_it(
    pool: Pool, zoho: Zoho, connection: Connection, way: str, poor: Callable[[Zoho], None], told: str
) -> None:
    if way == "a setting":
        start(pool, ZOHO_REFRESH_TOKEN=PRESENT)
    else:
        consent(pool)
    poor(zoho)
    for _process in range(3):
        start(pool, ZOHO_REFRESH_TOKEN=NEXT)
    assert (used(pool), zoho.revoked) == (PRESENT, [])
    # It was tried once.
    assert zoho.refreshed.count(NEXT) == 1
    (problem,) = [each for each in insights.problems(insights.overview(connection)) if each.cause.startswith("zoho.")]
    assert problem.cause == "zoho.setting_refused"
    assert "ZOHO_REFRESH_TOKEN" in problem.what
    assert re.search(told, problem.what)
    # Set back, nobody is told of it any more.
    start(pool)
    assert zoho_connection.read(connection).refused_seed_reason is None


def test_a_token_of_the_settings_that_can_replaces_the_present_one(pool: Pool, zoho: Zoho) -> None:
    start(pool, ZOHO_REFRESH_TOKEN=PRESENT)
    start(pool, ZOHO_REFRESH_TOKEN=NEXT)
    assert used(pool) == NEXT
    start(pool, ZOHO_REFRESH_TOKEN=NEXT)
    assert zoho.refreshed.count(NEXT) == 2, "one to try it out, and one of its own"


def test_a_token_of_the_settings_that_zoho_does_not_know_leaves_the_present_one(pool: Pool, zoho: Zoho) -> None:
    consent(pool)
    start(pool, ZOHO_REFRESH_TOKEN="1000.unknown")
    assert (used(pool), zoho.refreshed, zoho.revoked) == (PRESENT, [PRESENT], [])


def test_a_token_of_the_settings_that_cannot_be_tried_now_is_tried_later(
    pool: Pool, zoho: Zoho, connection: Connection
) -> None:
    start(pool, ZOHO_REFRESH_TOKEN=PRESENT)
    zoho.answer_of["/organizations"] = httpx.Response(500)
    start(pool, ZOHO_REFRESH_TOKEN=NEXT)
    assert used(pool) == PRESENT
    zoho.answer_of.clear()
    let_pass(connection, timedelta(minutes=10))
    start(pool, ZOHO_REFRESH_TOKEN=NEXT)
    assert used(pool) == NEXT


def test_an_ended_connection_does_not_keep_a_token_of_the_settings_out(pool: Pool, zoho: Zoho) -> None:
    start(pool, ZOHO_REFRESH_TOKEN=PRESENT)
    del zoho.reached[PRESENT]
    start(pool, ZOHO_REFRESH_TOKEN=NEXT)
    assert used(pool) == NEXT


def test_a_disconnect_is_not_undone_by_a_token_of_the_settings_that_was_not_tried_yet(pool: Pool, zoho: Zoho) -> None:
    consent(pool)
    changed = settings(ZOHO_ORGANIZATION_ID="60011", ZOHO_REFRESH_TOKEN=NEXT)
    connecting.disconnect(pool, changed, ADA)
    with ZohoClient(pool, changed) as client, pytest.raises(NotConnected):
        client.item("7")
    assert NEXT not in zoho.refreshed


@pytest.mark.parametrize(
    ("granted", "needed", "missing"),
    [
        (SCOPES, SCOPES, []),
        (SCOPES_WITH_WEBHOOKS, SCOPES, []),
        ("ZohoInventory.items.ALL,ZohoInventory.settings.ALL", SCOPES, []),
        ("ZohoInventory.fullaccess.all", SCOPES_WITH_WEBHOOKS, []),
        (SCOPES, SCOPES_WITH_WEBHOOKS, ["ZohoInventory.settings.ALL"]),
        ("ZohoBooks.fullaccess.all", "ZohoInventory.items.READ", ["ZohoInventory.items.READ"]),
        ("ZohoInventory.items.CREATE", "ZohoInventory.items.READ", ["ZohoInventory.items.READ"]),
    ],
)
def test_a_scope_is_covered_by_itself_or_by_all_of_its_module_or_of_the_service(
    granted: str, needed: str, missing: list[str]
) -> None:
    assert scopes.missing(granted, needed) == missing
