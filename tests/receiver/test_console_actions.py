"""What operators do in the console comes about, is said, and is on record: who, what, which ids, from where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import pytest
from itsdangerous import TimestampSigner

import simulator
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.store.database import Pool
from simulator import Organization
from tests.conftest import ENCRYPTION_KEY
from tests.receiver.conftest import Serve, Visit
from tests.receiver.programs import MUG, fill
from tests.receiver.serving import SECRET, Rows, Web, item, settings, signed
from tests.receiver.visitors import PASSWORD, SESSION_SECRET, Browser, audited, everything, person

OTHER = Organization(organization_id="60099999999", name="Outlet <b>")
CLIENT = {"data_center": "com", "client_id": simulator.CLIENT_ID, "client_secret": simulator.CLIENT_SECRET}


@dataclass(frozen=True, slots=True)
class Mirror:
    """A web process and the Zoho that it asks."""

    web: Web
    zoho: simulator.Zoho
    zoho_url: str


@pytest.fixture(scope="module")
def _shared_mirror(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[Mirror]:
    zoho = simulator.Zoho(simulator.Catalogue.generate(5), limits=simulator.Limits.none())
    with simulator.serve(zoho) as zoho_url:
        chosen = settings(
            postgres.database_url("mirror"),
            redis_server.url,
            SESSION_SECRET=SESSION_SECRET,
            ENCRYPTION_KEYS=ENCRYPTION_KEY,
            ZOHO_ACCOUNTS_URL=zoho_url,
            ZOHO_API_URL=zoho_url,
        )
        with Web(chosen) as web:
            yield Mirror(web, zoho, zoho_url)


@pytest.fixture
def mirror(_shared_mirror: Mirror, database_url: str, redis_url: str) -> Mirror:  # noqa: ARG001 - both are emptied
    _shared_mirror.zoho.other_organizations = ()
    return _shared_mirror


@pytest.fixture
def olga(mirror: Mirror, visit: Visit, pool: Pool) -> Browser:
    """An operator of a mirror that can ask Zoho."""
    browser = visit(mirror.web)
    browser.sign_in(person(pool, "olga", "operator"))
    return browser


# The connection


def ask_consent(browser: Browser) -> httpx.URL:
    """Enter the client, and go as far as Zoho's consent page."""
    assert "The client is kept" in browser.acts("zoho/client", CLIENT)
    start = browser.client.get("/oauth/zoho/start")
    to_zoho = browser.client.get(start.headers["location"])
    assert to_zoho.status_code == 302
    return httpx.URL(to_zoho.headers["location"])


def consent(asked: httpx.URL, *, decision: str = "accept") -> dict[str, str]:
    """Decide on Zoho's page, and return what it sends back."""
    form = {**dict(parse_qsl(asked.query.decode())), "decision": decision}
    answer = httpx.post(asked.copy_with(query=None), data=form)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(form["redirect_uri"] + "?")
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def come_back(browser: Browser, sent: dict[str, str]) -> str:
    """Bring back what Zoho sends, and return the page that says what came of it."""
    answer = browser.client.get("/oauth/zoho/callback", params=sent)
    assert answer.status_code == 302
    return browser.told(browser.client.get(answer.headers["location"]))


def connect(browser: Browser) -> str:
    return come_back(browser, consent(ask_consent(browser)))


def is_connected(rows: Rows) -> bool:
    (row,) = rows("SELECT refresh_token IS NOT NULL AS is_connected FROM zoho_connection")
    return bool(row["is_connected"])


def test_zohos_consent_is_asked_for_with_a_state_offline_and_for_this_very_address(olga: Browser) -> None:
    asked = parse_qs(ask_consent(olga).query.decode())
    assert asked["redirect_uri"] == [f"http://127.0.0.1:{olga.web.port}/oauth/zoho/callback"]
    assert asked["access_type"] == ["offline"]
    assert asked["prompt"] == ["consent"]
    assert asked["client_id"] == [simulator.CLIENT_ID]
    assert len(asked["state"][0]) > 60
    assert simulator.CLIENT_SECRET not in str(asked)


def test_connecting_stores_and_shows_the_connection_and_picks_the_only_organisation(olga: Browser, rows: Rows) -> None:
    page = connect(olga)
    assert "Zoho is connected: Simulated Traders." in page
    for shown in (simulator.ORGANIZATION_ID, simulator.USER_EMAIL, "console:olga", "Refresh now", "Disconnect"):
        assert shown in page
    (row,) = rows("SELECT organization_id, refresh_token, access_token, client_secret FROM zoho_connection")
    assert row["organization_id"] == simulator.ORGANIZATION_ID
    # Fernet's ciphertexts begin so.
    assert all(bytes(row[name]).startswith(b"gAAAA") for name in ("refresh_token", "access_token", "client_secret"))
    assert [action for _, action, _ in audited(rows)] == [
        "zoho.client_entered",
        "zoho.connected",
        "zoho.organisation_chosen",
    ]


def test_of_two_organisations_one_is_chosen_and_a_foreign_one_is_refused(
    olga: Browser, rows: Rows, mirror: Mirror
) -> None:
    mirror.zoho.other_organizations = (OTHER,)
    page = connect(olga)
    assert "Now pick the organisation" in page
    assert "Simulated Traders" in page
    assert "Outlet &lt;b&gt;" in page
    for foreign in ("60011111111", "", "'; DROP TABLE products", "6" * 200):
        assert "is not one of those" in olga.acts("zoho/organisation", {"organization_id": foreign})
        assert rows("SELECT organization_id FROM zoho_connection") == [{"organization_id": None}]
    assert "The organisation is chosen" in olga.acts("zoho/organisation", {"organization_id": OTHER.organization_id})
    assert rows("SELECT organization_id FROM zoho_connection") == [{"organization_id": OTHER.organization_id}]
    assert audited(rows)[-1] == ("olga", "zoho.organisation_chosen", [OTHER.organization_id])


def test_a_consent_that_this_session_did_not_ask_for_stores_nothing(
    olga: Browser, visit: Visit, pool: Pool, rows: Rows
) -> None:
    sent = consent(ask_consent(olga))
    state = sent.pop("state")
    other = visit(olga.web)
    other.sign_in(person(pool, "oscar", "operator"))
    same_person = visit(olga.web)
    same_person.sign_in("olga")
    before = everything(rows)
    for browser, given in (
        (olga, {}),
        (olga, {"state": ""}),
        (olga, {"state": "guessed"}),
        (olga, {"state": state[:-1]}),
        (olga, {"state": f"{state}A"}),
        (olga, {"state": "A" + state[1:]}),
        (olga, {"state": state.rpartition(".")[0]}),
        (other, {"state": state}),
        (same_person, {"state": state}),
    ):
        assert "not asked for in this session" in come_back(browser, {**sent, **given})
        assert everything(rows) == before
    # The right one holds, all the same.
    assert "Zoho is connected" in come_back(olga, {**sent, "state": state})


def test_a_consent_after_signing_in_anew_stores_nothing(olga: Browser, rows: Rows) -> None:
    sent = consent(ask_consent(olga))
    olga.post("logout")
    turned_away = olga.client.get("/console/zoho/callback", params=sent)
    assert turned_away.headers["location"].startswith("/console/login?next=")
    signed_in = olga.sign_in("olga", path=turned_away.headers["location"].removeprefix("/console/"))
    assert "not asked for in this session" in olga.told(olga.client.get(signed_in.headers["location"]))
    assert not is_connected(rows)


@pytest.mark.parametrize(("seconds", "is_taken"), [(14 * 60, True), (15 * 60 + 2, False)])
def test_a_consent_is_waited_for_15_minutes(
    olga: Browser, rows: Rows, monkeypatch: pytest.MonkeyPatch, seconds: int, is_taken: bool
) -> None:
    sent = consent(ask_consent(olga))
    now = TimestampSigner.get_timestamp
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda signer: now(signer) + seconds)
    assert ("too long ago" in come_back(olga, sent)) is not is_taken
    assert is_connected(rows) is is_taken


def test_a_consent_that_was_not_given_stores_nothing(olga: Browser, rows: Rows) -> None:
    asked = ask_consent(olga)
    before = everything(rows)
    assert "Zoho gave no consent (access_denied); nothing was changed" in come_back(
        olga, consent(asked, decision="reject")
    )
    state = parse_qs(asked.query.decode())["state"][0]
    assert "Zoho gave no consent" in come_back(olga, {"state": state})
    assert "Zoho gave no consent" in come_back(olga, {"state": state, "error": "<b>" * 1_000})
    assert everything(rows) == before


def test_no_code_is_given_to_a_server_that_is_not_zohos(olga: Browser, rows: Rows) -> None:
    sent = consent(ask_consent(olga))
    for server in (
        "https://evil.example",
        "https://accounts.zoho.com.evil.example",
        "https://accounts.zoho.com@evil.example",
        "http://accounts.zoho.com",
        "//evil.example",
        "https://evil.example/accounts.zoho.com",
        "http://127.0.0.1:9",
        "a\0b",
    ):
        page = come_back(olga, {**sent, "accounts-server": server})
        assert "Zoho is connected" not in page, server
        assert not is_connected(rows), server
    assert "zoho.connected" not in [action for _, action, _ in audited(rows)]


def test_a_code_is_worth_one_connection(olga: Browser, rows: Rows) -> None:
    sent = consent(ask_consent(olga))
    come_back(olga, sent)
    before = rows("SELECT refresh_token FROM zoho_connection")
    page = come_back(olga, sent)
    assert "alert" in page
    assert rows("SELECT refresh_token FROM zoho_connection") == before


def test_a_token_is_refreshed_and_the_connection_ends(olga: Browser, rows: Rows) -> None:
    connect(olga)
    assert "Zoho gave a new access token" in olga.acts("zoho/refresh")
    assert "its tokens are revoked" in olga.acts("zoho/disconnect")
    assert not is_connected(rows)
    assert [action for _, action, _ in audited(rows)][-2:] == ["zoho.refreshed", "zoho.disconnected"]
    assert "Zoho not connected" in olga.shows("zoho")


def test_no_token_of_zohos_is_on_a_page_in_a_log_or_on_record(
    olga: Browser, rows: Rows, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sent = consent(ask_consent(olga))
    pages = [come_back(olga, sent), *(olga.shows(path) for path in ("", "zoho", "audit/list", "webhooks", "access"))]
    written = [str(row) for row in rows("SELECT audit_log::text AS row FROM audit_log")]
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert any("zoho.connected" in line for line in logged)
    secrets = [simulator.CLIENT_SECRET, sent["code"], sent["state"], ENCRYPTION_KEY]
    secrets += re.findall(r"'(1000\.[^']{20,})'", repr(vars(mirror.zoho.tokens)))
    assert len(secrets) > 4
    for secret in secrets:
        if secret != simulator.CLIENT_ID:
            assert all(secret not in text for text in (*pages, *written, *logged)), secret


# Items and runs


def test_an_item_is_fetched_and_what_changed_is_said(olga: Browser, rows: Rows, mirror: Mirror) -> None:
    connect(olga)
    known = mirror.zoho.catalogue.all()[0]
    page = olga.acts(f"products/{known.item_id}/fetch")
    assert "applied (created)" in page
    assert rows("SELECT zoho_item_id FROM products") == [{"zoho_item_id": known.item_id}]
    assert audited(rows)[-1] == ("olga", "item.fetched", [known.item_id])
    assert "nothing was changed" in olga.acts(f"products/{known.item_id}/fetch")
    assert rows("SELECT source FROM product_changes") == [{"source": "fetch"}]


def test_an_item_that_cannot_be_fetched_is_said_and_nothing_is_changed(
    operator: Browser, pool: Pool, rows: Rows
) -> None:
    fill(pool)
    before = rows("SELECT * FROM products ORDER BY zoho_item_id")
    assert f"Item {MUG} could not be fetched" in operator.acts(f"products/{MUG}/fetch")
    assert rows("SELECT * FROM products ORDER BY zoho_item_id") == before


@pytest.mark.parametrize("kind", ["full", "recent"])
def test_a_run_is_started_once(operator: Browser, pool: Pool, rows: Rows, kind: str) -> None:
    with pool.connection() as connection:
        connection.execute("UPDATE zoho_connection SET organization_id = '60012345678', refresh_token = 'x'")
    page = operator.acts("runs", {"kind": kind})
    (run,) = rows("SELECT id, kind, trigger, state FROM reconciliation_runs")
    assert (run["kind"], run["trigger"], run["state"]) == (kind, "console", "running")
    assert f"Run {run['id']} ({kind}) is started" in page
    assert f"Run {run['id']} ({kind}) is under way already" in operator.acts("runs", {"kind": kind})
    assert len(rows("SELECT id FROM reconciliation_runs")) == 1
    assert audited(rows) == [("olga", "run.started", [str(run["id"])]), ("olga", "run.hurried", [str(run["id"])])]


def test_without_an_organisation_no_run_is_started(operator: Browser, rows: Rows) -> None:
    assert "No organisation is known: connect Zoho in the console" in operator.acts("runs", {"kind": "full"})
    assert rows("SELECT id FROM reconciliation_runs") == []


def test_a_disconnected_mirror_starts_no_run(operator: Browser, pool: Pool, rows: Rows) -> None:
    with pool.connection() as connection:
        connection.execute("UPDATE zoho_connection SET organization_id = '60012345678'")
    assert "Zoho is not connected: connect it first" in operator.acts("runs", {"kind": "full"})
    assert rows("SELECT id FROM reconciliation_runs") == []


def test_a_run_of_no_kind_is_answered_400(operator: Browser, rows: Rows) -> None:
    for form in ({}, {"kind": ""}, {"kind": "all"}):
        assert operator.post("runs", form).status_code == 400
    assert rows("SELECT id FROM reconciliation_runs") == []


@pytest.mark.parametrize(
    ("way", "state", "action"),
    [
        ("confirm-deletes", "running", "run.deletes_confirmed"),
        ("discard-deletes", "partial", "run.deletes_discarded"),
    ],
)
def test_a_held_run_is_decided_upon_once(
    operator: Browser, pool: Pool, rows: Rows, way: str, state: str, action: str
) -> None:
    fill(pool)
    (held,) = rows("SELECT id FROM reconciliation_runs WHERE state = 'held'")
    page = operator.acts(f"runs/{held['id']}/{way}")
    assert f"Run {held['id']}" in page
    assert rows("SELECT state FROM reconciliation_runs WHERE id = %s", held["id"]) == [{"state": state}]
    assert audited(rows) == [("olga", action, [str(held["id"])])]
    operator.acts(f"runs/{held['id']}/{way}")
    assert len(audited(rows)) == 1


def test_a_run_without_a_certificate_is_not_verified(operator: Browser, pool: Pool, rows: Rows) -> None:
    fill(pool)
    (run,) = rows("SELECT id FROM reconciliation_runs WHERE state = 'complete'")
    before = everything(rows)
    assert f"run {run['id']} has no certificate" in operator.acts(f"runs/{run['id']}/verify").lower()
    assert everything(rows) == before


# Events


def fields_of(page: str) -> list[tuple[str, str]]:
    """Return what the form of a preview sends, as it is on the page."""
    (form,) = re.findall(r'<form method="post" action="/console/events/\w+".*?</form>', page, re.DOTALL)
    return re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form)


def confirm(browser: Browser, what: str, page: str, **more: str) -> httpx.Response:
    """Press the button of a preview."""
    pairs = [*fields_of(page), *more.items()]
    return browser.client.post(
        f"/console/events/{what}",
        content=urlencode(pairs),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )


def dead_ids(rows: Rows) -> list[int]:
    return [row["id"] for row in rows("SELECT id FROM events WHERE state = 'dead' ORDER BY id")]


def test_ticked_events_are_previewed_and_replayed(operator: Browser, pool: Pool, rows: Rows) -> None:
    fill(pool)
    ids = dead_ids(rows)[:2]
    page = operator.shows("events/list?state=dead")
    ticks = re.findall(r'data-sa-hook="row-checkbox" value="([^"]*)"', page)
    assert sorted(map(int, ticks)) == dead_ids(rows)
    answer = operator.client.post(
        "/console/_api/events/action",
        params={"name": "replay", "pks": ids},
        headers={"X-CSRFToken": operator.csrf},
    )
    before = everything(rows)
    preview = operator.told(answer)
    assert "Replay 2 events?" in preview
    assert everything(rows) == before
    told = operator.told(confirm(operator, "replay", preview, reason="mended"))
    (replay,) = rows("SELECT id, requested_by, reason, total FROM replays")
    assert (replay["requested_by"], replay["reason"], replay["total"]) == ("console:olga", "mended", 2)
    assert f"Replay {replay['id']} sends 2 events again" in told
    assert audited(rows) == [("olga", "replay.started", [str(replay["id"])])]
    assert [row["event_id"] for row in rows("SELECT event_id FROM replay_events ORDER BY event_id")] == ids


def test_all_that_a_filter_finds_are_replayed_and_a_changed_count_asks_again(
    operator: Browser, pool: Pool, rows: Rows
) -> None:
    fill(pool)
    preview = operator.shows("events/replay?error_class=BodyUnreadable")
    assert "Replay 2 events?" in preview
    rows("INSERT INTO events (body, state, error, error_class) VALUES ('x', 'dead', 'late', 'BodyUnreadable')")
    again = operator.told(confirm(operator, "replay", preview))
    assert "Meanwhile 3 events match" in again
    assert rows("SELECT id FROM replays") == []
    assert audited(rows) == []
    assert "sends 3 events again" in operator.told(confirm(operator, "replay", again))
    assert rows("SELECT total FROM replays") == [{"total": 3}]


def test_a_list_that_was_filtered_is_replayed_by_that_filter(operator: Browser, pool: Pool, rows: Rows) -> None:
    fill(pool)
    assert dead_ids(rows)
    answer = operator.client.post(
        "/console/_api/events/action",
        params={"name": "replay", "all": "1", "_list_query": "?state=dead&error=zoho says no&page=1"},
        headers={"X-CSRFToken": operator.csrf},
    )
    assert "Replay 1 event?" in operator.told(answer)


def test_a_filter_in_the_short_address_of_a_list_reaches_the_list(operator: Browser, pool: Pool) -> None:
    fill(pool)
    answer = operator.get("events?state=dead&error=a%26b")
    assert answer.headers["location"] == "/console/events/list?state=dead&error=a%26b"
    assert operator.get("events").headers["location"] == "/console/events/list"


def test_nothing_is_replayed_without_a_filter_or_an_id(operator: Browser, pool: Pool, rows: Rows) -> None:
    fill(pool)
    before = everything(rows)
    for form in ({}, {"total": "4"}, {"event": "0", "total": "0"}, {"state": "recorded", "total": "1"}):
        operator.acts("events/replay", form)
        operator.acts("events/discard", {**form, "reason": "none"})
    assert operator.post("events/replay", {"event": "one", "total": "1"}).status_code == 400
    assert everything(rows) == before


def test_a_discard_needs_a_reason_and_leaves_other_events_alone(operator: Browser, pool: Pool, rows: Rows) -> None:
    fill(pool)
    preview = operator.shows("events/discard?error_class=BodyUnreadable")
    before = everything(rows)
    for reason in ("", "  ", "\t"):
        assert "Say why" in operator.told(confirm(operator, "discard", preview, reason=reason))
    assert everything(rows) == before
    assert "2 dead events are discarded" in operator.told(confirm(operator, "discard", preview, reason="tests"))
    found = rows("SELECT id, error_class, discarded_by FROM events WHERE discarded_at IS NOT NULL ORDER BY id")
    assert {(row["error_class"], row["discarded_by"]) for row in found} == {("BodyUnreadable", "console:olga")}
    assert audited(rows) == [("olga", "events.discarded", [str(row["id"]) for row in found])]


def test_a_replay_is_cancelled_once(operator: Browser, pool: Pool, rows: Rows) -> None:
    fill(pool)
    operator.told(confirm(operator, "replay", operator.shows("events/replay?state=dead")))
    (replay,) = rows("SELECT id FROM replays")
    assert f"Replay {replay['id']} is cancelled" in operator.acts(f"replays/{replay['id']}/cancel")
    assert rows("SELECT state FROM replays") == [{"state": "cancelled"}]
    assert "cancelled already" in operator.acts(f"replays/{replay['id']}/cancel")
    assert [action for _, action, _ in audited(rows)] == ["replay.started", "replay.cancelled"]


# Access


def test_a_token_is_shown_once_works_and_is_revoked(operator: Browser, rows: Rows) -> None:
    answer = operator.post("access/tokens", {"name": "Shop", "scope": "read"})
    assert answer.status_code == 200
    (text,) = set(re.findall(r"zm_[A-Za-z0-9_-]{43}", answer.text))
    used = {"Authorization": f"Bearer {text}"}
    assert operator.web.client.get("/api/products", headers=used).status_code == 200
    for path in ("access", "audit/list", "account"):
        assert text not in operator.shows(path)
    (token,) = rows("SELECT id, created_by FROM api_tokens")
    assert token["created_by"] == "console:olga"
    assert "there is a token shop already" in operator.acts("access/tokens", {"name": "shop", "scope": "read"}).lower()
    assert "is revoked" in operator.acts(f"access/tokens/{token['id']}/revoke")
    assert operator.web.client.get("/api/products", headers=used).status_code == 401
    assert audited(rows) == [
        ("olga", "token.created", [str(token["id"])]),
        ("olga", "token.revoked", [str(token["id"])]),
    ]


def test_another_password_ends_the_other_sessions(operator: Browser, visit: Visit, rows: Rows) -> None:
    other = visit()
    other.sign_in("olga")
    for form in (
        {"password": "a wrong password", "new_password": "another good password"},
        {"password": PASSWORD, "new_password": "short"},
        {"new_password": "another good password"},
    ):
        assert operator.post("account/password", form).status_code == 400
    assert audited(rows) == []
    told = operator.acts("account/password", {"password": PASSWORD, "new_password": "another good password"})
    assert "Your password is changed" in told
    assert other.get("").status_code == 302
    assert other.sign_in("olga").status_code == 401
    assert other.sign_in("olga", "another good password").status_code == 303
    assert audited(rows) == [("olga", "operator.password_changed", ["olga"])]


def test_the_webhooks_secret_is_shown_on_request_and_that_is_on_record(operator: Browser, rows: Rows) -> None:
    assert SECRET not in operator.shows("webhooks")
    answer = operator.post("webhooks/secret")
    assert answer.status_code == 200
    assert SECRET in answer.text
    assert SECRET not in operator.shows("webhooks")
    assert audited(rows) == [("olga", "webhook_secret.shown", [])]


def test_the_addresses_and_the_secret_of_the_webhooks_page_work(operator: Browser) -> None:
    page = operator.post("webhooks/secret").text
    addresses = re.findall(r'<code class="copy">(http://[^<\s]+)</code>', page)
    assert len(addresses) == 2
    for address in addresses:
        body = item("1")
        assert httpx.post(address, content=body, headers=signed(body)).status_code == 200
    seen = operator.shows("webhooks")
    assert "none yet" not in seen


# Behind a proxy


def test_behind_one_proxy_its_word_for_address_and_scheme_is_taken(
    serve: Serve, visit: Visit, pool: Pool, rows: Rows
) -> None:
    web = serve(SESSION_SECRET=SESSION_SECRET, TRUSTED_PROXIES="1", ENCRYPTION_KEYS=ENCRYPTION_KEY)
    forwarded = {
        "X-Forwarded-For": "203.0.113.66, 198.51.100.7",
        "X-Forwarded-Proto": "https",
        "Host": "mirror.example",
    }
    browser = visit(web, **forwarded)
    browser.sign_in(person(pool, "olga", "operator"))
    browser.acts("runs", {"kind": "full"})
    assert {row["address"] for row in rows("SELECT address FROM audit_log WHERE channel = 'console'")} == {
        "198.51.100.7"
    }
    assert "198.51.100.7" in browser.shows("account")
    assert "https://mirror.example/oauth/zoho/callback" in browser.shows("zoho")
    assert "https://mirror.example/webhooks/zoho/items" in browser.shows("webhooks")
    assert "https://mirror.example/api" in browser.shows("access")


def test_without_a_proxy_such_headers_are_ignored(visit: Visit, pool: Pool, rows: Rows) -> None:
    browser = visit(X_Forwarded_For="203.0.113.66", X_Forwarded_Proto="https", Host="mirror.example")
    browser.sign_in(person(pool, "olga", "operator"))
    browser.acts("runs", {"kind": "full"})
    assert {row["address"] for row in rows("SELECT address FROM audit_log WHERE channel = 'console'")} == {"127.0.0.1"}
    assert "http://mirror.example/oauth/zoho/callback" in browser.shows("zoho")
    assert "http://mirror.example/webhooks/zoho/items" in browser.shows("webhooks")


def test_strangers_who_claim_other_addresses_are_throttled_all_the_same(visit: Visit, pool: Pool) -> None:
    person(pool, "olga", "operator")
    statuses = []
    for number in range(6):
        browser = visit(X_Forwarded_For=f"203.0.113.{number}")
        statuses.append(browser.sign_in("olga", "a wrong password").status_code)
    assert statuses == [401] * 5 + [429]


def test_the_right_to_set_webhooks_up_is_asked_for_only_where_somebody_wants_it(operator: Browser) -> None:
    operator.acts(
        "zoho/client", {"data_center": "com", "client_id": "1000.CLIENT", "client_secret": "a-secret-of-zoho"}
    )

    def scopes(path: str) -> list[str]:
        (scope,) = parse_qs(urlsplit(operator.get(path).headers["location"]).query)["scope"]
        return scope.split(",")

    usual = ["ZohoInventory.items.READ", "ZohoInventory.settings.READ"]
    assert scopes("zoho/connect") == usual
    assert scopes("zoho/connect?webhooks=1") == [*usual, "ZohoInventory.settings.ALL"]
    assert "zoho/connect?webhooks=1" in operator.shows("webhooks")
