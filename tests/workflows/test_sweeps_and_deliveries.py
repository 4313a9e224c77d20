"""However pages, deliveries, deletions and checks fall between each other: time alone decides which of them wins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from processors.store import runs
from processors.store.runs import Run
from processors.workflows.paging import PER_PAGE, ReadPage
from processors.workflows.reconciliation import Reconciler
from processors.zoho.client import ZohoClient
from processors.zoho.listing import ListedPage
from simulator import ManualClock, Zoho
from tests.workflows.scene import Scene
from tests.workflows.test_order_does_not_matter import DETAILS, NAMES, Deliveries, served

__all__ = ["served"]


class Sweeps(Deliveries):
    """The same, with pages that are read at one time and merged at any later one."""

    reconciler: Reconciler

    def __init__(self) -> None:
        super().__init__()
        for table in ("reconciliation_runs", "run_pages", "run_checks"):
            self.scene.execute(f"DELETE FROM {table}")
        self.pages: list[ListedPage] = []
        self.run = self._claimed("full")
        self.ends_with_a_full_run = False

    @initialize(name=NAMES, details=DETAILS, ends_with_a_full_run=st.booleans())
    def begin(self, name: str, details: Any, ends_with_a_full_run: bool = False) -> None:
        self.ends_with_a_full_run = ends_with_a_full_run
        self.create(name, details)

    def _claimed(self, kind: runs.RunKind) -> Run:
        with self.scene.pool.connection() as connection:
            opened = runs.open_run(connection, kind, "cli")
            assert opened is not None
            run = runs.claim(connection, opened.id, worker="worker:test")
        assert run is not None
        return run

    @rule()
    def read_a_page(self) -> None:
        page = self.reconciler.zoho.item_page(page=1, per_page=PER_PAGE, sort_column="name", run_id=self.run.id)
        self.pages.append(page)

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def merge_a_page(self, data: st.DataObject) -> None:
        """Merge any page that was ever read, as a worker would that was slow or frozen."""
        page = data.draw(st.sampled_from(self.pages))
        self.reconciler.merge_page(self.run, ReadPage(page, len(page.items), is_last=False), None)

    @rule()
    def ask_for_what_is_in_doubt(self) -> None:
        assert self.reconciler._check(self.run, is_suspect=False, together=100, goes_on=lambda: True)

    @rule()
    def run_recent(self) -> None:
        self._run("recent")

    def _run(self, kind: runs.RunKind) -> None:
        with self.scene.pool.connection() as connection:
            opened = runs.open_run(connection, kind, "cli")
        assert opened is not None
        self.reconciler.work(opened.id)
        (row,) = self.scene.execute("SELECT state, error FROM reconciliation_runs WHERE id = %(id)s", id=opened.id)
        assert row == {"state": "complete", "error": None}

    def _raw_does_not_contradict_itself(self, raw: dict[str, Any]) -> None:
        """Lists lack many keys, and tell of custom fields in others than details do; what is there fits together."""
        for key in ("sales_rate", "pricebook_rate"):
            assert raw.get(key, raw["rate"]) == raw["rate"]
        if "rate_formatted" in raw:
            assert raw["rate_formatted"].lstrip("₹") == f"{raw['rate']:,.2f}"

    def teardown(self) -> None:
        self.scene.execute("DELETE FROM reconciliation_runs WHERE state = 'running'")
        if self.ends_with_a_full_run:
            # All that was not delivered yet is lost, with all that was dropped: a full run finds it by itself.
            self.scene.settle_all()
            self._run("full")
            self.deliveries, self.to_fetch = [], set()
        super().teardown()


def test_any_order_of_pages_and_deliveries_ends_in_the_rows_that_zoho_has(
    served: tuple[Zoho, Scene, ManualClock],
) -> None:
    zoho_, scene_, clock_ = served
    client = cast("ZohoClient", scene_.shop.zoho)

    class Machine(Sweeps):
        zoho, scene, clock = zoho_, scene_, clock_
        reconciler = scene_.reconciler(client)

    # The catalogue's clock stands in the past, so that its times never lie in the future of this machine.
    assert clock_() < datetime.now(UTC)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
