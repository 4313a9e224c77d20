"""A secret in every setting, and in every place where a stranger or Zoho may put one: afterwards it is nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psycopg
import pytest
import redis
from cryptography.fernet import Fernet

import simulator
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from simulator import Catalogue, Fault, Limits
from tests.acceptance.installation import Installation, wait_for
from tests.receiver.visitors import PASSWORD, Browser

NEWEST, OLDER = "newestWebhookNeedle1", "olderWebhookNeedle12"
KEY, OLD_KEY = (Fernet.generate_key().decode() for _ in range(2))
SETTINGS = {
    "ZOHO_WEBHOOK_SECRETS": f"{NEWEST},{OLDER}",
    "ENCRYPTION_KEYS": f"{KEY},{OLD_KEY}",
    "SESSION_SECRET": "session-needle-that-signs-the-console",
    # Nobody listens there: what goes wrong on the way is logged, and shown.
    "ALERT_WEBHOOK_URL": "http://127.0.0.1:9/alert-needle",
    "METRICS_TOKEN": "metrics-needle-1234",
    "SENTRY_DSN": "http://sentryneedle@127.0.0.1:9/1",
}
IN_SETTINGS = [
    NEWEST, OLDER, KEY, OLD_KEY, "session-needle", "alert-needle", "metrics-needle", "sentryneedle",
    simulator.CLIENT_SECRET, simulator.REFRESH_TOKEN,
]  # fmt: skip
# In requests that are refused, nothing at all may be kept; what is signed is kept as it came, and is Zoho's own.
FROM_STRANGERS = [
    "body-needle",
    "header-needle",
    "query-needle",
    "code-needle",
    "wrong-password-needle",
    "token-needle",
]
IN_PAYLOADS = ["name-needle", "sku-needle", "description-needle", "custom-needle"]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    zoho = simulator.Zoho(Catalogue.generate(20), limits=Limits.none())
    with (
        LocalPostgres(tmp_path / "postgres") as postgres,
        LocalRedis() as redis_server,
        simulator.serve(zoho) as zoho_url,
    ):
        installation = Installation(postgres, redis_server, zoho, zoho_url, tmp_path / "logs")
        installation._env |= {**SETTINGS, "LOG_LEVEL": "debug"}
        (tmp_path / "logs").mkdir()
        installation.run_release()
        try:
            for line in ("web", "worker", "clock"):
                installation.start(line)
            installation.wait_until_ready()
            yield installation
        finally:
            installation.close()


def deliver(installation: Installation, secret: str, **fields: object) -> httpx.Response:
    item = {**fields, "last_modified_time": "2026-10-05T21:32:21+0530"}
    body = json.dumps({"item": item}).encode()
    headers = {simulator.SIGNATURE_HEADER: simulator.sign(secret, raw=body), "Content-Type": "application/json"}
    return httpx.post(f"{installation.url}/webhooks/zoho/items", content=body, headers=headers)


def run(installation: Installation, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "processors", *arguments],
        env=installation._env, cwd=procfile.ROOT, input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def everything_in_postgres(installation: Installation) -> str:
    with psycopg.connect(installation.database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        found = []
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text FROM {table} AS t").fetchall()
            found += [f"{table}: {row}" for (row,) in rows]
        # Bodies are kept as bytes, which their text writes in hex.
        bodies = connection.execute("SELECT convert_from(body, 'UTF8') FROM events").fetchall()
    return "\n".join([*found, *(body for (body,) in bodies)])


def everything_in_redis(installation: Installation) -> str:
    with redis.Redis.from_url(installation.redis.url) as client:
        return repr([(key, client.dump(key)) for key in client.scan_iter()])


def found_in(text: str, needles: list[str]) -> list[str]:
    return [needle for needle in needles if needle in text]


def deliver_all_kinds(installation: Installation, item_id: str) -> Iterator[str]:
    """Signed with both secrets, unreadable, and refused in each way."""
    fields = {"name": "name-needle", "sku": "sku-needle", "description": "description-needle", "status": "active"}
    assert deliver(installation, NEWEST, item_id=item_id, rate=1, cf_x="custom-needle", **fields).is_success
    assert deliver(installation, OLDER, item_id="4100000000000000007", rate=1, **fields).is_success
    assert deliver(installation, NEWEST, nothing="description-needle").is_success
    hidden = dict.fromkeys(("Authorization", "Cookie", "X-Forwarded-For", "X-Api-Key"), "header-needle")
    for signature in ("", "header-needle", "0" * 64):
        answer = httpx.post(
            f"{installation.url}/webhooks/zoho/items?key=query-needle",
            content=b'{"item": {"item_id": "body-needle"}}',
            headers={**hidden, simulator.SIGNATURE_HEADER: signature},
        )
        assert answer.status_code == httpx.codes.UNAUTHORIZED
        yield answer.text


def tokens_of(zoho: simulator.Zoho) -> list[str]:
    return [issued for holder in zoho.tokens._refresh_tokens.values() for issued in holder.access_tokens]


def call_zoho(installation: Installation, item_id: str, tokens: list[str]) -> Iterator[str]:
    """A run, an answer that fails, and a client that is refused."""
    zoho = installation.zoho
    yield run(installation, "reconcile", "--wait")
    zoho.faults.add(Fault(path="/inventory/v1/items/*", status=500, times=2))
    yield run(installation, "fetch", item_id)
    tokens += tokens_of(zoho)
    zoho.tokens.client_secret = "another-one"
    zoho.tokens.expire_access_tokens()
    yield run(installation, "fetch", item_id)
    yield run(installation, "check")
    zoho.tokens.client_secret = simulator.CLIENT_SECRET


def visit(
    installation: Installation, item_id: str, token: str, client: httpx.Client, cookies: list[str]
) -> Iterator[str]:
    """A stranger and an operator at the console, and programs at the API."""
    web = cast("Any", SimpleNamespace(client=client, port=installation.port))
    pages = ["", "products/list", f"products/detail?pk={item_id}", "events/list", "runs/list", "zoho", "webhooks"]
    with Browser(web) as stranger, Browser(web) as operator:
        stranger.sign_in("olga", "wrong-password-needle")
        operator.sign_in("olga")
        yield client.get("/oauth/zoho/callback?code=code-needle&state=code-needle").text
        yield operator.get("zoho/callback?code=code-needle&state=code-needle").text
        operator.acts("alerts/test", {})
        for page in (*pages, "alerts", "access", "audit/list", "account"):
            yield operator.shows(page)
        cookies += [operator.session]
    yield client.get("/api/products", headers={"Authorization": "Bearer token-needle"}).text
    for path in ("products", "events", "status", "openapi.json"):
        yield client.get(f"/api/{path}", headers={"Authorization": f"Bearer {token}"}).text
    for path in ("/metrics", "/health/ready", "/health/live"):
        yield client.get(path).text
    yield client.get("/metrics", headers={"Authorization": "Bearer metrics-needle-1234"}).text


def give_orders(installation: Installation) -> Iterator[str]:
    """A replay, and what the other commands say."""
    dead = installation.one("SELECT min(id) FROM events WHERE state = 'dead'")[0]
    yield run(installation, "replay", str(dead))
    for words in ("status", "alerts", "alerts test", "events --json", "webhooks instructions", "keys rotate"):
        yield run(installation, *words.split())


def test_no_secret_is_anywhere_after_all_that_can_happen(installation: Installation) -> None:
    zoho = installation.zoho
    item_id = zoho.catalogue.all()[0].item_id
    tokens: list[str] = []
    said = [*deliver_all_kinds(installation, item_id), *call_zoho(installation, item_id, tokens)]
    said.append(run(installation, "operator", "add", "olga", text=f"{PASSWORD}\n"))
    token = json.loads(run(installation, "token", "create", "shop", "--scope", "write", "--json"))["token"]
    cookies: list[str] = []
    with httpx.Client(base_url=installation.url) as client:
        said += visit(installation, item_id, token, client, cookies)
    said += give_orders(installation)
    zoho.tokens.forget_throttle()
    wait_for(lambda: installation.one("SELECT count(*) > 0 FROM delivery_shapes") == (True,), "the shape watch")

    tokens += tokens_of(zoho)
    assert tokens
    secrets = [*IN_SETTINGS, *FROM_STRANGERS, *tokens, token, PASSWORD, *cookies]
    logs = "\n".join(installation.log(line) for line in ("web", "worker", "clock"))
    in_postgres = everything_in_postgres(installation)
    assert "delivery.recorded" in logs
    assert "name-needle" in in_postgres, "what is searched holds what was kept"
    assert found_in(logs, secrets + IN_PAYLOADS) == []
    assert found_in(in_postgres, secrets) == []
    assert found_in(everything_in_redis(installation), secrets + IN_PAYLOADS) == []
    assert found_in("\n".join(said), [*IN_SETTINGS, *FROM_STRANGERS, *tokens, PASSWORD]) == []
