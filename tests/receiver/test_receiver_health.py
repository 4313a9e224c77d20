"""Liveness, readiness with each part away, and metrics that Prometheus can read."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from processors.runtime.local import LocalPostgres
from processors.store.database import Connection
from processors.workflows import insights
from processors.workflows.insights import Totals
from receiver import health
from tests.receiver.conftest import Serve
from tests.receiver.serving import DELETED, ITEMS, Rows, Web, eventually, item


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_all_is_well(web: Web) -> None:
    live, ready = web.client.get("/health/live"), eventually(lambda: web.client.get("/health/ready"))

    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ok", "parts": {"postgres": "ok", "schema": "ok", "redis": "ok"}},
    )


def test_without_redis_it_is_ready_and_says_what_that_means(serve: Serve) -> None:
    ready = serve(REDIS_URL=f"redis://127.0.0.1:{_unused_port()}/0").client.get("/health/ready")

    parts = ready.json()["parts"]
    assert (ready.status_code, ready.json()["status"], parts["postgres"]) == (200, "degraded", "ok")
    assert parts["redis"].startswith("no answer; deliveries are recorded")


def test_without_postgres_it_lives_but_is_not_ready_and_has_no_metrics(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_SECONDS", 0.5)
    web = serve(DATABASE_URL=f"postgresql://postgres@127.0.0.1:{_unused_port()}/mirror")

    assert web.client.get("/health/live").status_code == 200
    ready, metrics = web.client.get("/health/ready"), web.client.get("/metrics")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert ready.json()["parts"]["postgres"].startswith("no answer")
    assert ready.json()["parts"]["redis"] == "ok"
    assert (metrics.status_code, metrics.headers["content-type"]) == (503, "text/plain; charset=utf-8")


def test_without_the_schema_it_is_not_ready_and_names_the_command(serve: Serve, postgres: LocalPostgres) -> None:
    web = serve(DATABASE_URL=postgres.create_database("bare"))

    ready = web.client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["parts"]["schema"] == "not that of this release; run: python -m processors migrate"
    assert web.client.get("/metrics").status_code == 503
    web.stop()
    postgres.drop_database("bare")


def test_it_is_ready_again_when_postgres_is_back(serve: Serve, tmp_path: Path) -> None:
    with LocalPostgres(tmp_path) as server:
        web = serve(DATABASE_URL=server.url)
        eventually(lambda: web.client.get("/health/ready").json()["parts"]["postgres"] == "ok")
        server.stop()
        assert web.client.get("/health/ready").status_code == 503
        assert web.client.get("/health/live").status_code == 200
        server.start()
        eventually(lambda: web.client.get("/health/ready").json()["parts"]["postgres"] == "ok")
        web.stop()


def test_metrics_are_text_for_prometheus_with_our_names(web: Web) -> None:
    web.deliver(item())
    answer = web.client.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert families
    assert all(family.name.startswith("zoho_mirror_") for family in families)
    assert all(family.documentation for family in families)


def test_metrics_count_what_is_in_postgres(web: Web, rows: Rows) -> None:
    web.deliver(item("1"))
    web.deliver(b"nonsense")
    eventually(lambda: [event["state"] for event in rows.events()] == ["queued", "dead"])
    rows("UPDATE events SET received_at = now() - interval '60 s' WHERE item_id = '1'")
    rows("INSERT INTO products (zoho_item_id, is_active) VALUES ('1', true), ('2', false), ('3', true)")

    samples = _samples(web.client.get("/metrics").text)

    assert samples["zoho_mirror_events", (("outcome", ""), ("state", "queued"))] == 1
    assert samples["zoho_mirror_events", (("outcome", ""), ("state", "dead"))] == 1
    assert samples["zoho_mirror_products", (("state", "active"),)] == 2
    assert 60 <= samples["zoho_mirror_oldest_unfinished_event_age_seconds", ()] < 90
    assert samples["zoho_mirror_api_budget_left", (("window", "minute"),)] == 90
    assert samples["zoho_mirror_api_budget_left", (("window", "day"),)] == 2000
    assert samples["zoho_mirror_zoho_connected", ()] == 0


def test_rejected_deliveries_are_counted_by_route_and_reason_for_all_processes(serve: Serve) -> None:
    """The total of the whole system: whichever process is asked, and after the ones that counted are gone."""
    first, second, asked = serve(), serve(), serve()
    for web in (first, second):
        web.client.post(ITEMS, content=item())
        web.client.post(DELETED, content=item(), headers={"X-Zoho-Webhook-Signature": "0" * 64})
        web.client.post(ITEMS, content=item(), headers={"Content-Type": "text/plain"})
        web.stop()

    samples = _samples(asked.client.get("/metrics").text)

    name = "zoho_mirror_rejected_deliveries_total"
    assert {labels: value for (sample, labels), value in samples.items() if sample == name} == {
        (("reason", "signature_absent"), ("route", "changed")): 2,
        (("reason", "signature_mismatch"), ("route", "deleted")): 2,
        (("reason", "content_type"), ("route", "changed")): 2,
    }


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_they_are_only_read(web: Web, path: str) -> None:
    assert web.client.post(path).status_code == 405
    assert web.client.head(path).status_code == 200
    assert web.client.get(path + "/more").status_code == 404


def test_metrics_are_open_only_to_the_token_where_one_is_set(serve: Serve) -> None:
    web = serve(METRICS_TOKEN="metricsToken1234567")
    for given in (
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer metricsToken123456",
        "Basic metricsToken1234567",
        "Bearer ü",
    ):
        answer = web.client.get("/metrics", headers=[] if given is None else [(b"Authorization", given.encode())])
        assert (answer.status_code, answer.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
        assert "zoho_mirror_" not in answer.text
    for given in ("Bearer metricsToken1234567", "bearer  metricsToken1234567"):
        assert web.client.get("/metrics", headers={"Authorization": given}).status_code == 200
    assert web.client.get("/health/ready").status_code == 200


def test_many_scrapes_are_one_computation_and_readiness_waits_for_none(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, begun, may_end = list[None](), threading.Event(), threading.Event()
    totals = insights.totals

    def slow(connection: Connection) -> Totals:
        looks.append(None)
        begun.set()
        assert may_end.wait(20)
        return totals(connection)

    monkeypatch.setattr(insights, "totals", slow)
    web = serve()
    with ThreadPoolExecutor(30) as scrapers:
        answers = [scrapers.submit(web.client.get, "/metrics") for _ in range(30)]
        assert begun.wait(20)
        for _ in range(5):
            started = time.monotonic()
            assert web.client.get("/health/ready").status_code == 200
            assert time.monotonic() - started < 1
        may_end.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert web.client.get("/metrics").status_code == 200
    assert len(looks) == 1, "kept for some seconds"
    monkeypatch.setattr(health, "_METRICS_KEPT_SECONDS", 0.0)
    assert web.client.get("/metrics").status_code == 200
    assert len(looks) == 2


def test_what_could_not_be_found_is_not_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_connection: Connection) -> Totals:
        raise psycopg.OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(insights, "totals", away)
        web = serve()
        assert web.client.get("/metrics").status_code == 503
    assert web.client.get("/metrics").status_code == 200
