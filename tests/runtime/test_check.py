"""The doctor: whatever is set up wrongly, one line says what, and what to do about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import redis
import respx
from cryptography.fernet import Fernet

import simulator
from processors import field_table
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.settings import HOSTS, Settings, load_what_is_right
from processors.store import database, timetable, zoho_connection
from processors.store.database import Connection, Pool
from processors.workflows import checking
from processors.workflows.checking import Finding
from simulator import Catalogue, Limits, Organization, Zoho, serve
from simulator.tokens import Tokens
from tests.conftest import ENCRYPTION_KEY
from tests.receiver.serving import SECRET, Web

REQUIRED = ("DATABASE_URL", "REDIS_URL", "ZOHO_WEBHOOK_SECRETS")


@dataclass
class Mirror:
    """An installation in which all is well, until a test changes something."""

    pool: Pool
    zoho: Zoho
    environ: dict[str, str]
    now: timedelta = field(default_factory=timedelta)
    """How far this machine's clock is off."""

    def findings(self, **environ: str) -> list[Finding]:
        settings, complaints = load_what_is_right(*REQUIRED, environ=self.environ | environ)
        open_pool = partial(database.sync_pool, settings.database_url or "", size=4, name="cli")
        return list(checking.check(settings, complaints, open_pool, now=lambda: datetime.now(UTC) + self.now))

    def problems(self, **environ: str) -> list[Finding]:
        return [finding for finding in self.findings(**environ) if finding.mark == "problem"]

    def problem(self, **environ: str) -> str:
        """Return the one problem, with what to do about it."""
        (found,) = self.problems(**environ)
        assert found.do
        return f"{found.part}: {found.what} -> {found.do}"


@pytest.fixture(scope="module")
def served(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[Mirror]:
    zoho = Zoho(Catalogue.generate(30), limits=Limits.none())
    url = postgres.url.rsplit("/", 1)[0] + "/mirror"
    with serve(zoho) as zoho_url, database.sync_pool(url, size=2, name="tests") as pool:
        environ = {
            "DATABASE_URL": url,
            "REDIS_URL": redis_server.url,
            "ZOHO_ACCOUNTS_URL": zoho_url,
            "ZOHO_API_URL": zoho_url,
            "ZOHO_ORGANIZATION_ID": simulator.ORGANIZATION_ID,
            "ZOHO_CLIENT_ID": simulator.CLIENT_ID,
            "ZOHO_CLIENT_SECRET": simulator.CLIENT_SECRET,
            "ZOHO_REFRESH_TOKEN": simulator.REFRESH_TOKEN,
            "ZOHO_WEBHOOK_SECRETS": SECRET,
            "ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "SESSION_SECRET": "s" * 40,
        }
        with Web(Settings.load(environ=environ)) as web:
            yield Mirror(pool, zoho, environ | {"PUBLIC_URL": f"http://127.0.0.1:{web.port}"})


@pytest.fixture
def mirror(served: Mirror, connection: Connection) -> Mirror:
    served.zoho.tokens = Tokens()
    served.zoho.other_organizations = ()
    for role in ("web", "worker", "clock"):
        timetable.beat(connection, f"{role}:test", role)
    connection.execute("INSERT INTO operators (name, role, password_hash) VALUES ('ada', 'operator', '')")
    _see(connection)
    return Mirror(served.pool, served.zoho, served.environ)


def _see(connection: Connection, *, secret: int = 1, without: tuple[str, ...] = ()) -> None:
    """Let a delivery have come just now."""
    keys = [key for key in field_table.EXPECTED if key not in without]
    connection.execute(
        """INSERT INTO delivery_shapes (route, fingerprint, signature, secret, form, envelope, keys, missing, looked_at)
           VALUES ('changed', %(mark)s, 'base64', %(secret)s, 'json', 'item', %(keys)s, %(missing)s, 1)""",
        {"mark": f"{secret}{without}".encode(), "secret": secret, "keys": keys, "missing": list(without)},
    )


def test_where_all_is_well_nothing_is_wrong_and_nothing_is_recorded(mirror: Mirror, connection: Connection) -> None:
    found = mirror.findings()
    assert {finding.mark for finding in found if finding.part != "python"} == {"ok"}
    assert {finding.part for finding in found} == {
        "python", "settings", "redis", "postgres", "keys", "zoho", "console", "processes", "webhooks"
    }  # fmt: skip
    assert connection.execute("SELECT count(*) FROM events").fetchone() == {"count": 0}


def test_a_token_of_the_settings_that_was_refused_is_a_problem_though_the_present_one_works(
    mirror: Mirror, connection: Connection
) -> None:
    assert mirror.problems() == []
    zoho_connection.note_refused_seed(connection, b"other", "ZOHO_REFRESH_TOKEN was not taken over: it lacks a scope")
    told = mirror.problem()
    assert told.startswith("zoho: ZOHO_REFRESH_TOKEN was not taken over")
    assert "remove it" in told


@pytest.mark.parametrize(
    ("version", "is_mended"),
    [
        ((3, 11, 9), False),
        ((3, 11, 10), True),
        ((3, 12, 5), False),
        ((3, 12, 6), True),
        ((3, 13, 0), True),
        ((3, 14, 1), True),
    ],
)
def test_an_interpreter_that_reads_cookies_slowly_is_named(version: tuple[int, int, int], is_mended: bool) -> None:
    finding = checking._check_python(version)
    assert finding.mark == ("ok" if is_mended else "warning")
    assert ".".join(map(str, version)) in finding.what
    assert is_mended or "3.11.10" in finding.do


# Ten ways to set it up wrongly, and more


def test_a_secret_of_64_characters(mirror: Mirror) -> None:
    found = mirror.findings(ZOHO_WEBHOOK_SECRETS="a1" * 32)
    (problem,) = [finding for finding in found if finding.mark == "problem"]
    assert problem.what.startswith("ZOHO_WEBHOOK_SECRETS should hold")
    assert "64 characters" in problem.what
    assert [finding.part for finding in found if finding.mark == "skipped"] == ["webhooks"]


@respx.mock(assert_all_mocked=False, assert_all_called=False)
def test_the_wrong_data_centre(respx_mock: respx.MockRouter, mirror: Mirror) -> None:
    for name, (accounts_url, _) in HOSTS.items():
        answer = {"access_token": "1000.x", "expires_in": 3600} if name == "in" else {"error": "invalid_client"}
        respx_mock.post(f"{accounts_url}/oauth/v2/token").respond(json=answer)
    respx_mock.route(host="127.0.0.1").pass_through()
    said = mirror.problem(ZOHO_ACCOUNTS_URL="", ZOHO_API_URL="", ZOHO_DATA_CENTER="eu")
    assert "belong to another data centre" in said
    assert "set ZOHO_DATA_CENTER=in" in said
    asked = [str(call.request.url.host) for call in respx_mock.calls if call.request.url.host != "127.0.0.1"]
    assert len(asked) == len(set(asked)), "each is asked at most once"


@respx.mock(assert_all_mocked=False)
def test_a_client_that_no_data_centre_knows(respx_mock: respx.MockRouter, mirror: Mirror) -> None:
    for accounts_url, _ in HOSTS.values():
        respx_mock.post(f"{accounts_url}/oauth/v2/token").respond(json={"error": "invalid_client"})
    respx_mock.route(host="127.0.0.1").pass_through()
    assert "check client id and secret" in mirror.problem(ZOHO_ACCOUNTS_URL="", ZOHO_API_URL="")


@pytest.mark.parametrize("area", ["settings", "items"])
def test_a_missing_scope(mirror: Mirror, area: str) -> None:
    other = {"settings": "items", "items": "settings"}[area]
    mirror.zoho.tokens._refresh_tokens[simulator.REFRESH_TOKEN].scopes = frozenset({f"ZohoInventory.{other}.READ"})
    said = mirror.problem()
    assert f"lacks the scope ZohoInventory.{area}.READ" in said
    assert "ZohoInventory.items.READ,ZohoInventory.settings.READ" in said


def test_the_wrong_organisation(mirror: Mirror) -> None:
    mirror.zoho.other_organizations = (Organization("77", name="Another Shop"),)
    said = mirror.problem(ZOHO_ORGANIZATION_ID="99")
    assert "organisation 99 is none of this account's" in said
    assert f"{simulator.ORGANIZATION_ID} (Simulated Traders), 77 (Another Shop)" in said


def test_a_lost_key(mirror: Mirror) -> None:
    assert mirror.problems() == []
    said = mirror.problem(ENCRYPTION_KEYS=Fernet.generate_key().decode())
    assert "no key of ENCRYPTION_KEYS can read the refresh token and the access token" in said


def test_an_older_key_that_is_still_needed_is_a_warning(mirror: Mirror) -> None:
    assert mirror.problems() == []
    found = mirror.findings(ENCRYPTION_KEYS=f"{Fernet.generate_key().decode()},{ENCRYPTION_KEY}")
    assert any("keys rotate" in finding.do for finding in found if finding.mark == "warning")


@pytest.fixture
def policy(redis_server: LocalRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("name", ["allkeys-lru", "allkeys-random"])
def test_a_redis_that_drops_what_it_holds(mirror: Mirror, policy: redis.Redis, name: str) -> None:
    policy.config_set("maxmemory-policy", name)
    assert f"eviction policy is {name}" in mirror.problem()


@pytest.mark.parametrize(("off", "word"), [(timedelta(minutes=-7), "behind"), (timedelta(minutes=7), "ahead of")])
def test_a_clock_that_is_off(mirror: Mirror, off: timedelta, word: str) -> None:
    mirror.now = off
    found = mirror.problems()
    assert found[0].what == f"the clock of this machine is 7 minutes {word} the database's"
    assert [finding.part for finding in found] == ["postgres", "zoho"]


def test_an_address_that_nobody_answers_at(mirror: Mirror) -> None:
    assert "http://127.0.0.1:9/webhooks/zoho/items cannot be reached" in mirror.problem(PUBLIC_URL="http://127.0.0.1:9")


def test_no_worker(mirror: Mirror, connection: Connection) -> None:
    connection.execute("DELETE FROM processes WHERE role = 'worker'")
    assert "no worker is alive" in mirror.problem()


def test_a_refresh_token_that_was_revoked(mirror: Mirror) -> None:
    assert mirror.problems() == []
    mirror.zoho.tokens.revoke(simulator.REFRESH_TOKEN)
    mirror.zoho.tokens.forget_throttle()
    said = mirror.problem()
    assert "invalid_code" in said
    assert "connect Zoho again" in said


def test_a_web_process_that_runs_with_another_secret(mirror: Mirror) -> None:
    assert "web runs with other secrets" in mirror.problem(ZOHO_WEBHOOK_SECRETS="another1234567")


def test_an_address_of_something_else(mirror: Mirror) -> None:
    assert "PUBLIC_URL is the address of something else" in mirror.problem(PUBLIC_URL=mirror.environ["ZOHO_API_URL"])


@respx.mock(assert_all_mocked=False)
def test_an_address_that_leads_elsewhere(respx_mock: respx.MockRouter, mirror: Mirror) -> None:
    respx_mock.post("http://shop.example/webhooks/zoho/items").respond(
        301, headers={"Location": "https://shop.example/webhooks/zoho/items"}
    )
    respx_mock.route(host="127.0.0.1").pass_through()
    assert "set PUBLIC_URL to where it leads: https://shop.example" in mirror.problem(PUBLIC_URL="http://shop.example")


@respx.mock(assert_all_mocked=False)
def test_something_in_front_that_lets_unsigned_deliveries_pass(respx_mock: respx.MockRouter, mirror: Mirror) -> None:
    respx_mock.post(url__startswith="https://shop.example/").respond(json={"event_id": None, "state": "checked"})
    respx_mock.route(host="127.0.0.1").pass_through()
    assert "not refused with 401" in mirror.problem(PUBLIC_URL="https://shop.example")


def test_a_database_that_is_away_costs_only_what_needs_it(mirror: Mirror) -> None:
    found = mirror.findings(DATABASE_URL="postgres://nobody@127.0.0.1:9/nothing")
    assert [finding.part for finding in found if finding.mark == "problem"] == ["postgres"]
    assert {finding.part for finding in found if finding.mark == "ok"} == {"settings", "redis", "webhooks"}


def test_a_database_of_an_older_release(mirror: Mirror, connection: Connection) -> None:
    try:
        connection.execute("UPDATE schema_migrations SET applied_at = NULL WHERE number = 1")
        assert "python -m processors migrate" in mirror.problem()
    finally:
        connection.execute("UPDATE schema_migrations SET applied_at = now() WHERE number = 1")


def test_an_index_that_someone_dropped_is_named_with_its_definition(mirror: Mirror, connection: Connection) -> None:
    try:
        connection.execute("DROP INDEX events_item")
        said = mirror.problem()
        assert "index events_item is missing" in said
        assert "CREATE INDEX events_item ON events USING btree (item_id, id)" in said
    finally:
        connection.execute("CREATE INDEX IF NOT EXISTS events_item ON events (item_id, id)")


def test_a_redis_that_is_away(mirror: Mirror) -> None:
    assert "check REDIS_URL" in mirror.problem(REDIS_URL="redis://127.0.0.1:9/0")


def test_a_rabbitmq_that_is_away(mirror: Mirror) -> None:
    said = mirror.problem(BROKER_URL="amqp://mirror:a-password@127.0.0.1:9/x", REDIS_URL="")
    assert said.startswith("rabbitmq: RabbitMQ did not answer")
    assert "a-password" not in said


def test_a_budget_that_is_used_up(mirror: Mirror, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO api_calls (purpose, started_at, ends_at) SELECT 'item', now(), now() FROM generate_series(1, 9)"
    )
    assert "raise ZOHO_REQUESTS_PER_DAY" in mirror.problems(ZOHO_REQUESTS_PER_DAY="9")[0].do


def test_several_faults_are_told_at_once(mirror: Mirror, connection: Connection) -> None:
    connection.execute("DELETE FROM processes")
    found = mirror.problems(
        TIMEZONE="Mars", PORT="x", REDIS_URL="redis://127.0.0.1:9/0", PUBLIC_URL="http://127.0.0.1:9"
    )
    assert list(dict.fromkeys(finding.part for finding in found)) == ["settings", "redis", "processes", "webhooks"]
    assert len([finding for finding in found if finding.part == "settings"]) == 2


def warnings(mirror: Mirror, **environ: str) -> list[str]:
    found = [each for each in mirror.findings(**environ) if each.mark == "warning" and each.part == "webhooks"]
    return [f"{each.what} -> {each.do}" for each in found]


def test_it_says_what_deliveries_look_like(mirror: Mirror, connection: Connection) -> None:
    told = [each.what for each in mirror.findings() if each.part == "webhooks"]
    assert "deliveries of changed items arrive signed in base64, as json in item" in told
    _see(connection, without=("rate",))
    assert "lack rate: each costs a call to Zoho" in warnings(mirror)[0]
    connection.execute("DELETE FROM delivery_shapes")
    _see(connection, without=("brand",))
    assert "lack brand -> " in warnings(mirror)[0]
    connection.execute("DELETE FROM delivery_shapes")
    assert "no delivery of Zoho's has been seen yet" in warnings(mirror)[0]


def test_it_says_which_secret_zoho_still_uses(mirror: Mirror, connection: Connection) -> None:
    connection.execute("DELETE FROM delivery_shapes")
    _see(connection, secret=2)
    (warning,) = warnings(mirror, ZOHO_WEBHOOK_SECRETS=f"{SECRET},olderSecret12345")
    assert "Zoho still signs with secret 2 of ZOHO_WEBHOOK_SECRETS" in warning


def test_refused_deliveries_are_a_problem_with_its_cause(mirror: Mirror, connection: Connection) -> None:
    connection.execute("INSERT INTO rejections VALUES (date_trunc('hour', now()), 'changed', 'signature_absent', 78)")
    assert "78 of the last 78 deliveries of changed items carry no signature" in mirror.problem()


# The command


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    command = [sys.executable, "-m", "processors", "check", *arguments]
    return subprocess.run(
        command, env=bare | environ, cwd=procfile.ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_says_a_line_for_each_finding_and_fails_on_a_problem(mirror: Mirror) -> None:
    done = run(mirror.environ)
    assert (done.returncode, done.stderr) == (0, "")
    is_warned_of = checking._check_python(sys.version_info[:3]).mark == "warning"
    assert done.stdout.endswith("1 warning.\n" if is_warned_of else "All is well.\n")
    done = run({**mirror.environ, "ZOHO_WEBHOOK_SECRETS": "short", "PUBLIC_URL": ""}, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (1, "")
    assert {line["mark"] for line in lines} == {"ok", "problem", "warning"}


def test_with_nothing_set_it_says_all_that_is_missing() -> None:
    done = run({})
    assert done.returncode == 1
    assert done.stderr == ""
    assert all(name in done.stdout for name in REQUIRED)
    assert re.search(r"3 problems", done.stdout)


def test_no_secret_is_in_the_report(mirror: Mirror) -> None:
    done = run({**mirror.environ, "ZOHO_CLIENT_SECRET": "not-the-clients-secret"}, "--json")
    secrets = [
        SECRET,
        ENCRYPTION_KEY,
        simulator.REFRESH_TOKEN,
        "not-the-clients-secret",
        mirror.environ["SESSION_SECRET"],
    ]
    assert done.returncode == 1
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]


def test_the_address_on_heroku_is_known_by_itself() -> None:
    domain = {"HEROKU_APP_DEFAULT_DOMAIN_NAME": "shop-1234.herokuapp.com"}
    assert Settings.load(environ=domain).public_url == "https://shop-1234.herokuapp.com"
    assert Settings.load(environ=domain | {"PUBLIC_URL": "https://shop.example/"}).public_url == "https://shop.example"
