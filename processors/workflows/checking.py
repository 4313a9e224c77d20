"""The doctor: everything that set-up can get wrong, tried one after the other, a finding for each.

What cannot be tried because something before it failed is skipped, and says so. Nothing is changed but what any call to
Zoho changes: the token may be refreshed, and the calls count in the quota.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx
import psycopg
import redis

from processors import field_table, redaction
from processors.encryption import SecretBox
from processors.errors import BudgetSpent, MirrorError, NotAuthorised, NotConnected, PublishFailed, TokenThrottled
from processors.messaging.broker import broker_for
from processors.messaging.messages import Publisher
from processors.messaging.redis import connect
from processors.settings import HOSTS, Settings
from processors.store import operators, schema, shapes, zoho_connection
from processors.store.database import Connection, Pool
from processors.store.shapes import SeenShape
from processors.store.zoho_connection import Stored
from processors.workflows import insights
from processors.workflows.insights import Problem
from processors.zoho import connecting, guard, hosts, payloads, signatures, token_endpoint
from processors.zoho.client import ZohoClient
from processors.zoho.connecting import SCOPES, Organisation
from processors.zoho.token_endpoint import Client, Refusal

Mark = Literal["ok", "warning", "problem", "skipped"]

_COOKIES_MENDED_IN = {(3, 11): (3, 11, 10), (3, 12): (3, 12, 6)}
_OLDEST_POSTGRES = 150_000
_OLDEST_REDIS = (6, 2)
_MOST_SKEW = timedelta(seconds=5)
_LOOKED_AT = 10
_HTTP_TIMEOUT = httpx.Timeout(10, connect=5)
_ROUTES = ("/webhooks/zoho/items", "/webhooks/zoho/items/deleted")
# Of the problems that `status` knows, those that come of how this is set up.
_OF_SET_UP = ("worker.", "clock.", "webhooks.", "events.waiting")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    part: str
    mark: Mark
    what: str
    do: str = ""
    """What to do about it; "" where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Makes the findings of one part."""

    name: str

    def ok(self, what: str) -> Finding:
        return Finding(self.name, "ok", what)

    def warning(self, what: str, do: str) -> Finding:
        return Finding(self.name, "warning", what, do)

    def problem(self, what: str, do: str) -> Finding:
        return Finding(self.name, "problem", what, do)

    def skipped(self, why: str) -> Finding:
        return Finding(self.name, "skipped", why)


_PYTHON = _Part("python")
_SETTINGS, _POSTGRES = _Part("settings"), _Part("postgres")
_REDIS, _RABBITMQ = _Part("redis"), _Part("rabbitmq")
_KEYS, _ZOHO, _CONSOLE = _Part("keys"), _Part("zoho"), _Part("console")
_PROCESSES, _WEBHOOKS = _Part("processes"), _Part("webhooks")


def check(
    settings: Settings, complaints: Sequence[str], open_pool: Callable[[], Pool], *, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Yield a finding for each thing that was tried, as soon as it was.

    `complaints` are the lines about settings that are wrong or missing; `settings` are the others. `now` is this
    machine's clock.
    """
    yield _check_python(sys.version_info[:3])
    yield from _check_settings(settings, complaints)
    yield from _check_rabbitmq(settings) if settings.broker_url else _check_redis(settings)
    problem = None
    if settings.database_url is None:
        problem = _POSTGRES.skipped("DATABASE_URL is wrong or missing")
    else:
        try:
            with psycopg.connect(settings.database_url, connect_timeout=5, autocommit=True) as connection:
                yield from _check_server(connection, now)
        except psycopg.Error as error:
            problem = _POSTGRES.problem(
                f"it does not answer: {redaction.reason(error)}", "check DATABASE_URL, and whether Postgres runs"
            )
    if problem is None:
        with open_pool() as pool:
            yield from _check_database(pool, settings, now)
    else:
        yield problem
        for part in (_KEYS, _ZOHO, _CONSOLE, _PROCESSES):
            yield part.skipped("what is to be known of it is in Postgres")
    yield from _check_webhook_url(settings)


def _check_python(version: tuple[int, int, int]) -> Finding:
    told = ".".join(map(str, version))
    if version >= _COOKIES_MENDED_IN.get(version[:2], version):
        return _PYTHON.ok(told)
    return _PYTHON.warning(
        f"{told} undoes the backslashes of a cookie in quadratic time (CVE-2024-7592); web leaves out such cookies",
        "use 3.11.10, 3.12.6 or newer",
    )


def _check_settings(settings: Settings, complaints: Sequence[str]) -> Iterator[Finding]:
    for line in complaints:
        yield _SETTINGS.problem(line, "set it, and restart every process")
    if not complaints:
        yield _SETTINGS.ok(f"{len(settings.model_fields_set)} settings are set, each of the right form")


# Redis and RabbitMQ


def _check_redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        yield _REDIS.skipped("REDIS_URL is wrong or missing")
        return
    client = connect(settings.redis_url, verify_tls=settings.redis_tls_verify)
    try:
        with client:
            told: dict[str, object] = client.info()
    except redis.RedisError as error:
        yield _redis_problem(settings, error)
        return
    version = str(told.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    name = (
        f"{'Valkey' if 'valkey' in str(told.get('server_name', '')) else 'Redis'} {told.get('valkey_version', version)}"
    )
    if numbers < _OLDEST_REDIS:
        yield _REDIS.problem(f"it is {name}", "use Redis 6.2 or newer, or Valkey")
        return
    policy = str(told.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        what = f"its eviction policy is {policy}: short of memory, it drops messages"
        yield _REDIS.problem(
            what, "set maxmemory-policy to noeviction (Heroku: heroku redis:maxmemory --policy noeviction)"
        )
        return
    tls = " over TLS" if settings.redis_url.startswith("rediss://") else ""
    yield _REDIS.ok(f"{name}{tls}, eviction policy {policy}")


def _check_rabbitmq(settings: Settings) -> Iterator[Finding]:
    assert settings.broker_url, "the caller looked"
    try:
        Publisher(broker_for(settings)).queue_sizes()
    except PublishFailed as error:
        yield _RABBITMQ.problem(
            redaction.reason(error), "check BROKER_URL, its user's rights, and whether RabbitMQ runs"
        )
    else:
        yield _RABBITMQ.ok("it answers, and has the queues")


def _redis_problem(settings: Settings, error: redis.RedisError) -> Finding:
    reason = redaction.reason(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason or "certificate verify failed" in reason:
        what = "its certificate is not one that this machine trusts"
        return _REDIS.problem(what, "if it is signed by itself, as Heroku's are, set REDIS_TLS_VERIFY=false")
    if isinstance(error, redis.AuthenticationError):
        return _REDIS.problem(f"it refuses the password: {reason}", "check REDIS_URL")
    hint = (
        ", and whether it wants rediss://" if settings.redis_url and settings.redis_url.startswith("redis://") else ""
    )
    return _REDIS.problem(f"it does not answer: {reason}", f"check REDIS_URL{hint}, and whether Redis runs")


# Postgres


def _check_server(connection: psycopg.Connection, now: Callable[[], datetime]) -> Iterator[Finding]:
    version = connection.info.server_version
    if version < _OLDEST_POSTGRES:
        yield _POSTGRES.problem(f"it is version {version // 10_000}", "use PostgreSQL 15 or newer")
        return
    before = now()
    # Only `migrate` creates tables, and may have a user of its own (docs/security.md).
    cursor = connection.execute(
        "SELECT clock_timestamp(),"
        " has_schema_privilege(current_schema(), 'CREATE') OR to_regclass('products') IS NOT NULL"
    )
    (its_time, may_create), after = cursor.fetchone() or (before, False), now()
    skew = max(before - its_time, its_time - after, timedelta())
    if skew > _MOST_SKEW:
        direction = "behind" if its_time > after else "ahead of"
        what = f"the clock of this machine is {_span(skew)} {direction} the database's"
        yield _POSTGRES.problem(what, "let both be set by NTP: leases, tokens and runs count on it")
    if not may_create:
        what = "its user may not create tables in this schema"
        yield _POSTGRES.problem(what, f"GRANT CREATE ON SCHEMA public TO {connection.info.user}")
    if skew <= _MOST_SKEW and may_create:
        yield _POSTGRES.ok(f"version {version // 10_000}, its clock and this machine's agree")


def _check_database(pool: Pool, settings: Settings, now: Callable[[], datetime]) -> Iterator[Finding]:
    with pool.connection() as connection:
        if not schema.is_current(connection):
            what = "its tables are not those of this release"
            yield _POSTGRES.problem(what, "run: python -m processors migrate")
            for part in (_KEYS, _ZOHO, _CONSOLE, _PROCESSES):
                yield part.skipped("the tables are not those of this release")
            return
        yield _POSTGRES.ok("it has every migration of this release")
        yield from _check_schema(connection)
        stored = zoho_connection.read(connection)
    keys = list(_check_keys(settings, stored))
    yield from keys
    if any(finding.mark == "problem" for finding in keys):
        yield _ZOHO.skipped("its credentials cannot be read")
    else:
        yield from _check_zoho(pool, settings, now)
    with pool.connection() as connection:
        yield from _check_console(connection, settings)
        yield from _check_processes(connection)
        yield from _check_deliveries(connection, settings)


def _check_schema(connection: Connection) -> Iterator[Finding]:
    try:
        differing = [each for each in schema.differences(connection) if each.expected is not None]
    except psycopg.errors.InsufficientPrivilege:
        yield _POSTGRES.skipped("its tables are not compared with schema.sql: its user may not create a schema")
        return
    for each in differing:
        yield _POSTGRES.problem(str(each), "restore it by hand; an index by CREATE INDEX CONCURRENTLY")
    if not differing:
        yield _POSTGRES.ok("its tables are those of this release")


# Keys


def _check_keys(settings: Settings, stored: Stored) -> Iterator[Finding]:
    secrets = zoho_connection.ciphertexts(stored)
    keys = [key.get_secret_value() for key in settings.encryption_keys]
    if not keys:
        what = "ENCRYPTION_KEYS is not set, so no credentials of Zoho can be kept"
        yield _KEYS.problem(what, "set it to a Fernet key; docs/quick-start.md says how to make one")
        return
    box, newest = SecretBox(keys), SecretBox(keys[:1])
    place_of = zoho_connection.place_of
    lost = [name for name, ciphertext in secrets.items() if not box.can_decrypt(ciphertext, place_of(name))]
    kept = {name: ciphertext for name, ciphertext in secrets.items() if name not in lost}
    old = [name for name, ciphertext in kept.items() if not newest.can_decrypt(ciphertext, place_of(name))]
    unbound = [name for name, ciphertext in kept.items() if not box.is_current(ciphertext, place_of(name))]
    if lost:
        what = f"no key of ENCRYPTION_KEYS can read {_secrets(lost)}"
        yield _KEYS.problem(what, "put the key that wrote it back at the end of the list, or connect Zoho again")
    elif old:
        what = f"{_secrets(old)} still needs an older key of ENCRYPTION_KEYS"
        yield _KEYS.warning(what, "run: python -m processors keys rotate; then the older keys can go")
    elif unbound:
        what = f"{_secrets(unbound)} is encrypted as by a former release, and not for its column alone"
        yield _KEYS.warning(what, "run: python -m processors keys rotate")
    else:
        yield _KEYS.ok("the newest key reads all that is stored" if secrets else "there is one; nothing is stored yet")


def _secrets(names: Sequence[str]) -> str:
    return " and ".join(f"the {name.replace('_', ' ')}" for name in names)


# Zoho


def _check_zoho(pool: Pool, settings: Settings, now: Callable[[], datetime]) -> Iterator[Finding]:
    with httpx.Client(timeout=_HTTP_TIMEOUT) as http, ZohoClient(pool, settings, is_persons=True) as zoho:
        with pool.connection() as connection:
            obstacle = guard.find_now(connection, settings, zoho_connection.read(connection))
        if obstacle:
            yield _ZOHO.problem(obstacle.reason, "work waits meanwhile, and goes on by itself")
            return
        try:
            zoho.refresh_token_now(lambda _connection: None)
        except TokenThrottled as error:
            yield _ZOHO.warning(str(error), "its token was asked for often lately: check again in a few minutes")
        except NotConnected as error:
            yield _of_refused_token(pool, settings, http, error)
            return
        except MirrorError as error:
            yield _ZOHO.problem(f"no token: {error}", "check ZOHO_ACCOUNTS_URL and the way out of this network")
            return
        else:
            yield _ZOHO.ok("it gives tokens")
        with pool.connection() as connection:
            stored = zoho_connection.read(connection)
        yield from _check_clock(settings, stored, http, now)
        yield from _check_calls(zoho, settings, stored)
    with pool.connection() as connection:
        overview = insights.overview(connection)
    for problem in insights.problems(overview):
        if problem.cause in (insights.BREAKER_IS_OPEN, insights.SETTING_IS_REFUSED):
            yield _ZOHO.problem(problem.what, problem.do)
    yield _budget(overview, settings)


def _of_refused_token(pool: Pool, settings: Settings, http: httpx.Client, error: NotConnected) -> Finding:
    """Say why no token is to be had: the wrong data centre, most of the time."""
    with pool.connection() as connection:
        stored = zoho_connection.read(connection)
    if stored.refresh_token is None:
        how = "connect it in the console, or set ZOHO_REFRESH_TOKEN (docs/quick-start.md)"
        # The error says what to do as well, after a semicolon.
        return _ZOHO.problem(str(error).partition("; ")[0], how)
    box = token_endpoint.secret_box(settings)
    assert box, "the keys were checked before"
    used = hosts.accounts_url(settings, stored)
    if settings.zoho_accounts_url is None:
        client, refresh_token = (
            token_endpoint.client(settings, stored, box),
            (box.decrypt(stored.refresh_token, zoho_connection.place_of("refresh_token"))),
        )
        fits = _data_center_that_fits(http, client, refresh_token, besides=used)
        if fits:
            what = f"the credentials belong to another data centre: {used} refuses them, {fits}'s takes them"
            return _ZOHO.problem(what, f"set ZOHO_DATA_CENTER={fits}, and restart every process")
    how = "connect Zoho again in the console, or make a new ZOHO_REFRESH_TOKEN: it was revoked, or is not this client's"
    if "invalid_client" in str(error):
        how = "check client id and secret; no other data centre takes them either"
    return _ZOHO.problem(str(error), how)


def _data_center_that_fits(http: httpx.Client, client: Client, refresh_token: str, *, besides: str) -> str | None:
    """Try the other data centres, each once."""
    for name, (accounts_url, _) in HOSTS.items():
        if accounts_url != besides:
            form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
            if not isinstance(token_endpoint.ask_without_record(http, accounts_url, client, form), Refusal):
                return name
    return None


def _check_clock(
    settings: Settings, stored: Stored, http: httpx.Client, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Compare with what Zoho's web server says; what it answers otherwise does not matter."""
    try:
        response = http.head(hosts.api_url(settings, stored))
        its_time = parsedate_to_datetime(response.headers["Date"])
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError):
        return
    skew = abs(its_time.astimezone(UTC) - now())
    # Its header tells whole seconds, and took a moment to arrive.
    if skew > _MOST_SKEW * 2:
        yield _ZOHO.problem(f"the clock of this machine is {_span(skew)} off Zoho's", "let it be set by NTP")


def _check_calls(zoho: ZohoClient, settings: Settings, stored: Stored) -> Iterator[Finding]:
    """Call what the mirror will call, and say what a refusal means."""
    area, found = "settings", list[Organisation]()
    try:
        found = zoho.organisations()
        area = "items"
        organization_id = settings.zoho_organization_id or stored.organization_id
        if organization_id is None:
            yield _ZOHO.problem(
                f"no organisation is chosen; there are {connecting.listed(found)}",
                "choose one in the console, or set ZOHO_ORGANIZATION_ID",
            )
            return
        if all(each.organization_id != organization_id for each in found):
            what = f"organisation {organization_id} is none of this account's, which are {connecting.listed(found)}"
            yield _ZOHO.problem(what, "set ZOHO_ORGANIZATION_ID to one of them, or connect with another account")
            return
        zoho.item_page(page=1, per_page=_LOOKED_AT, sort_column="created_time", run_id=None)
    except NotAuthorised as error:
        if (
            area == "settings"
            and stored.scopes is not None
            and f"ZohoInventory.{area}.READ" in stored.scopes.split(",")
        ):
            yield _ZOHO.problem(str(error), "check the data centre and the user's rights in Zoho Inventory")
            return
        if not _reason(error).startswith("401") and "code 57" not in str(error):
            how = "look at the subscription and at the user's rights in Zoho, and at what stands between here and Zoho"
            yield _ZOHO.problem(str(error), how)
            return
        what = f"the connection lacks the scope ZohoInventory.{area}.READ ({_reason(error)})"
        how = f"connect Zoho again with the scopes {SCOPES}"
        if area == "settings":
            how += "; if it has them, the data centre is the wrong one"
        yield _ZOHO.problem(what, how)
    except BudgetSpent as error:
        yield _ZOHO.problem(str(error), "wait, or raise ZOHO_REQUESTS_PER_DAY to what your plan allows")
    except MirrorError as error:
        yield _ZOHO.problem(str(error), "check ZOHO_API_URL and the way out of this network; then try again")
    else:
        name = next(each.name for each in found if each.organization_id == organization_id)
        yield _ZOHO.ok(f"it lists the items of organisation {organization_id} ({name})")


def _reason(error: Exception) -> str:
    told = re.search(r"answered (\d.*)\)", str(error))
    return told[1] if told else str(error)


def _budget(overview: insights.Overview, settings: Settings) -> Finding:
    usage = overview.api_usage
    left = settings.zoho_requests_per_day - usage.day
    what = f"{usage.day:,} of {settings.zoho_requests_per_day:,} calls were used in the last 24 hours"
    if left <= 0:
        return _ZOHO.problem(
            what, "nothing can be fetched until some of them are a day old; or raise ZOHO_REQUESTS_PER_DAY"
        )
    return _ZOHO.ok(what)


# Console and processes


def _check_console(connection: Connection, settings: Settings) -> Iterator[Finding]:
    if settings.session_secret is None:
        yield _CONSOLE.warning("it is off", "set SESSION_SECRET to turn it on")
    elif not operators.any_exists(connection):
        yield _CONSOLE.warning("nobody may use it yet", "run: python -m processors operator add NAME")
    else:
        yield _CONSOLE.ok("it is on, and somebody may use it")


def _check_processes(connection: Connection) -> Iterator[Finding]:
    overview = insights.overview(connection)
    found = [problem for problem in insights.problems(overview) if problem.cause.startswith(_OF_SET_UP)]
    for problem in found:
        part = _WEBHOOKS if problem.cause.startswith("webhooks.") else _PROCESSES
        yield part.problem(problem.what, _what_to_do(problem))
    if "web" not in overview.processes:
        yield _PROCESSES.problem("no web process is alive", "start one: without it no webhook is received")
    elif not any(problem.cause.startswith(("worker.", "clock.")) for problem in found):
        alive = ", ".join(f"{each.count} {role}" for role, each in sorted(overview.processes.items()))
        yield _PROCESSES.ok(f"alive: {alive}")


def _check_deliveries(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Say what Zoho's deliveries look like; what is wrong with them, `status` knows."""
    latest: dict[str, SeenShape] = {}
    for seen in shapes.listed(connection):
        latest.setdefault(seen.shape.route, seen)
    if "changed" not in latest:
        yield _WEBHOOKS.warning(
            "no delivery of Zoho's has been seen yet", "edit an item in Zoho: it arrives in seconds"
        )
        return
    for route, seen in sorted(latest.items()):
        shape = seen.shape
        envelope = f"in {shape.envelope}" if shape.envelope else "without an envelope"
        what = f"deliveries of {route} items arrive signed in {shape.signature}, as {shape.form} {envelope}"
        needed = [key for key in shape.missing if key in field_table.NEEDED]
        if needed:
            what += f", and lack {', '.join(needed)}: each costs a call to Zoho"
            yield _WEBHOOKS.warning(what, "let Zoho's webhook send the default payload")
        elif shape.missing:
            what += f", and lack {', '.join(shape.missing)}"
            yield _WEBHOOKS.warning(what, "let Zoho's webhook send the default payload, or do without these columns")
        else:
            yield _WEBHOOKS.ok(what)
    oldest = max(seen.shape.secret for seen in latest.values())
    if 1 < oldest <= len(settings.zoho_webhook_secrets):
        what = f"Zoho still signs with secret {oldest} of ZOHO_WEBHOOK_SECRETS"
        yield _WEBHOOKS.warning(what, "paste the first of them into Zoho's webhooks, or run: webhooks register")


def _what_to_do(problem: Problem) -> str:
    return f"{problem.do}: {problem.command}" if problem.command else problem.do


# The way of a delivery


def _check_webhook_url(settings: Settings) -> Iterator[Finding]:
    """Send signed deliveries, and one without a signature, through the public address."""
    if settings.public_url is None:
        what = "PUBLIC_URL is not set, so the way of a delivery cannot be tried"
        yield _WEBHOOKS.warning(
            what, "set it to the address under which Zoho reaches web, such as https://shop.example"
        )
        return
    if not settings.zoho_webhook_secrets:
        yield _WEBHOOKS.skipped("ZOHO_WEBHOOK_SECRETS is wrong or missing")
        return
    secret = settings.zoho_webhook_secrets[0].get_secret_value()
    signature = {signatures.HEADER: signatures.sign(secret, body=payloads.CHECK)}
    with httpx.Client(timeout=_HTTP_TIMEOUT, follow_redirects=False) as http:
        for path in _ROUTES:
            problem = _deliver(http, settings.public_url + path, signature)
            if problem:
                yield problem
                return
        unsigned = _post(http, settings.public_url + _ROUTES[0], {})
    # The second: who has much refused is refused in fewer words.
    refusals = (httpx.codes.UNAUTHORIZED, httpx.codes.TOO_MANY_REQUESTS)
    if isinstance(unsigned, str) or unsigned.status_code not in refusals:
        told = unsigned if isinstance(unsigned, str) else f"answered {unsigned.status_code}"
        what = f"a delivery without a signature is not refused with 401 by {settings.public_url}: {told}"
        yield _WEBHOOKS.problem(what, "is it web that answers there, or something in front of it?")
        return
    yield _WEBHOOKS.ok(f"signed deliveries arrive through {settings.public_url}; unsigned ones are refused")


def _deliver(http: httpx.Client, url: str, signature: dict[str, str]) -> Finding | None:
    response = _post(http, url, signature)
    if isinstance(response, str):
        return _WEBHOOKS.problem(f"{url} cannot be reached: {response}", "check PUBLIC_URL, DNS and whether web runs")
    status = response.status_code
    if status == httpx.codes.OK and _is_checked(response):
        return None
    what, how = f"{url} answered {status} to a signed delivery", "look at what runs there"
    if response.is_redirect:
        how = f"set PUBLIC_URL to where it leads: {response.headers.get('Location', '')[:200]}"
    elif status == httpx.codes.UNAUTHORIZED:
        what += ": web runs with other secrets, or something in between changes the body or drops the signature"
        how = "restart web with the ZOHO_WEBHOOK_SECRETS that is set here; look at proxies in front of it"
    elif status == httpx.codes.FORBIDDEN:
        how = (
            "WEBHOOK_ALLOWED_NETWORKS leaves this machine out, or TRUSTED_PROXIES is not the number of proxies in front"
        )
    elif status == httpx.codes.NOT_FOUND:
        how = "PUBLIC_URL is the address of something else: it should be that of web"
    elif status == httpx.codes.OK:
        what += " as if it were not web's"
    elif status == httpx.codes.SERVICE_UNAVAILABLE:
        how = "web is starting, or cannot reach Postgres: try again, and look at its log"
    return _WEBHOOKS.problem(what, how)


def _is_checked(response: httpx.Response) -> bool:
    try:
        answer = response.json()
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("state") == "checked"


def _post(http: httpx.Client, url: str, headers: dict[str, str]) -> httpx.Response | str:
    try:
        return http.post(url, content=payloads.CHECK, headers={"Content-Type": "application/json", **headers})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}"


def _span(length: timedelta) -> str:
    seconds = length.total_seconds()
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"  # noqa: PLR2004
