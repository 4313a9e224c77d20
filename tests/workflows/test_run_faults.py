"""Whatever Zoho, the network or a worker does during a run: the mirror ends right, or the run says why not."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from processors.store import runs
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.store.runs import Run
from processors.workflows import operations
from processors.workflows.paging import Pace
from processors.workflows.reconciliation import MOST_FAILURES
from simulator import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, Fault
from tests.workflows.runs_scene import LIST, SECOND, Killed, Publisher, ServedZoho, Shop, open_shop
from tests.workflows.scene import DEADLINE, run_together

KNOWN = pytest.mark.parametrize("is_known", [False, True], ids=["empty mirror", "known mirror"])


@pytest.fixture
def impatient(served: ServedZoho, pool: Pool, database_url: str) -> Iterator[Shop]:
    with open_shop(served, pool, database_url, timeout=0.4) as shop:
        yield shop


SHOWS_NOTHING = '{"code": 0, "message": "success"}'


def is_empty(fault: Fault) -> bool:
    """Tell whether it leaves an answer that may be the end of a list, and not one that cannot be read."""
    return fault.empty_page or fault.body == SHOWS_NOTHING


def once(fault: Fault) -> Fault:
    """Let it befall the second page."""
    return dataclasses.replace(fault, after=1, times=1)


def for_ever(fault: Fault) -> Fault:
    """Let it befall the second page and all that follow."""
    return dataclasses.replace(fault, after=1)


def prepare(shop: Shop, *, is_known: bool, count: int = 410) -> list[str]:
    """Give the mirror something to do on every page, and count calls from here on."""
    ids = shop.stock(count)
    if is_known:
        shop.complete()
        shop.edit(ids[::50])
        shop.remove(ids[7:9])
        shop.add(3)
    shop.line.forget()
    return shop.ids()


def ends_partial_and_buries_nobody(shop: Shop, run: Run) -> bool:
    assert shop.is_right_or_honest(run)
    return (run.state, run.deleted, shop.buried()) == ("partial", 0, 0) and run.pages > 0


def waits_for_zoho_and_goes_on(shop: Shop, run: Run) -> bool:
    """Work on a run whose every call fails until nobody asks any more; then let Zoho be as it was."""
    for _try in range(MOST_FAILURES + 3):
        now = shop.work(run)
        assert shop.is_right_or_honest(now)
        shop.make_run_due(run)
    assert (now.state, now.error_class, shop.buried()) == ("running", "ZohoAway", 0)
    assert now.failures < MOST_FAILURES
    asked = len(shop.line.asked)
    assert "breaker is open" in (shop.work(run).error or "")
    assert len(shop.line.asked) == asked
    shop.at_zoho.faults.clear()
    shop.line.answers = None
    shop.let_pass(run, timedelta(minutes=16))
    ended = shop.finish(run)
    return shop.is_right_or_honest(ended) and ended.state == "complete"


# A page that fails

FAULTS = {
    "500": Fault(LIST, status=500),
    "a firewall's page": Fault(LIST, status=503, body="<html>Service unavailable</html>"),
    "dropped": Fault(LIST, drop_connection=True),
    "truncated": Fault(LIST, truncate=True),
    "empty": Fault(LIST, empty_page=True),
    "no items": Fault(LIST, status=200, body=SHOWS_NOTHING),
}
EVERY_FAULT = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


@KNOWN
@EVERY_FAULT
def test_a_page_that_fails_once_is_read_again_and_nothing_is_lost(shop: Shop, fault: Fault, is_known: bool) -> None:
    prepare(shop, is_known=is_known)
    shop.at_zoho.faults.add(once(fault))
    run = shop.run()
    assert shop.is_right_or_honest(run)
    assert run.state == "complete"
    # What was read before it is not read again, but for where pages overlap.
    assert shop.line.pages().count(1) == 1 or is_empty(fault)


@pytest.mark.parametrize("fault", [FAULTS["empty"], FAULTS["no items"]], ids=["empty", "no items"])
def test_a_page_that_never_holds_what_it_should_ends_the_run_after_some_tries(shop: Shop, fault: Fault) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(for_ever(fault))
    run = shop.run()
    assert ends_partial_and_buries_nobody(shop, run)
    assert run.error_class in ("ZohoUnavailable", "ListUntrustworthy")
    # An empty page may be answered by looking at the one before it again.
    assert shop.line.pages() == [1] + [2] * MOST_FAILURES or is_empty(fault)
    assert len(shop.line.pages()) < 40


@pytest.mark.parametrize("first", [1, 2], ids=["the first page", "a later one"])
@pytest.mark.parametrize("fault", list(FAULTS.values())[:4], ids=list(FAULTS)[:4])
def test_a_run_whose_calls_all_fail_waits_for_zoho_and_then_goes_on(shop: Shop, fault: Fault, first: int) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(dataclasses.replace(fault, after=first - 1))
    assert waits_for_zoho_and_goes_on(shop, shop.open())
    assert shop.line.pages().count(1) == 1 or first == 1


def test_a_page_that_is_always_empty_ends_the_run_on_an_empty_mirror_too(shop: Shop) -> None:
    prepare(shop, is_known=False)
    shop.at_zoho.faults.add(for_ever(Fault(LIST, empty_page=True)))
    run = shop.run()
    assert ends_partial_and_buries_nobody(shop, run)
    assert len(shop.line.pages()) < 40


def test_a_page_that_zoho_refuses_while_it_gives_items_ends_the_run(shop: Shop) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(for_ever(Fault(LIST, status=400, code=2, message="Invalid value passed for page")))
    run = shop.run()
    assert ends_partial_and_buries_nobody(shop, run)
    assert (run.error_class, run.failures) == ("ZohoRefused", 1)
    assert "Invalid value passed for page" in (run.error or "")
    assert shop.line.pages() == [1, 2, 2]
    assert shop.line.item_calls() == 1


def test_the_pauses_between_tries_grow(shop: Shop) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(Fault(LIST, status=500))
    run = shop.open()
    waits = []
    for _try in range(MOST_FAILURES - 1):
        assert shop.work(run).state == "running"
        waits.append(shop.waits(run))
        assert shop.find(run).error is not None
        shop.make_run_due(run)
    assert [round(wait.total_seconds()) for wait in waits] == [1, 3, 9, 27]


def test_tries_are_counted_anew_after_each_page(shop: Shop) -> None:
    prepare(shop, is_known=True)
    for page in ("1", "2", "3"):
        shop.at_zoho.faults.add(Fault(LIST, query={"page": page}, status=500, times=MOST_FAILURES - 1))
    run = shop.run()
    assert shop.is_right_or_honest(run)
    assert run.state == "complete"


@KNOWN
def test_an_answer_that_does_not_come_in_time_is_asked_for_again(impatient: Shop, is_known: bool) -> None:
    prepare(impatient, is_known=is_known)
    impatient.at_zoho.faults.add(once(Fault(LIST, latency_seconds=0.8)))
    run = impatient.open()
    assert "ReadTimeout" in (impatient.work(run).error or "")
    run = impatient.finish(run)
    assert impatient.is_right_or_honest(run)
    assert run.state == "complete"


def test_a_check_that_fails_is_made_again(shop: Shop) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(Fault(f"{LIST}/*", status=500, times=2))
    run = shop.run()
    assert (run.state, run.deleted, shop.is_right_or_honest(run)) == ("complete", 2, True)
    # The pages are not read again for it.
    assert shop.line.pages() == [1, 2, 3, 3]


def test_checks_that_all_fail_wait_for_zoho_with_nobody_buried(shop: Shop) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(Fault(f"{LIST}/*", status=500))
    assert waits_for_zoho_and_goes_on(shop, shop.open())
    assert shop.buried() == 2


@pytest.mark.parametrize("body", ["{}", '{"code": 0}', '{"code": 1000}', "<html>404</html>"])
def test_a_404_that_is_not_zohos_word_on_the_item_buries_nobody(shop: Shop, body: str) -> None:
    """A proxy or a wrong address answers so for everything."""
    ids = shop.stock(50)
    shop.complete()

    def hide(path: str, said: Any) -> Any:
        if path == "/items":
            said["items"] = [item for item in said["items"] if item["item_id"] not in ids[20:25]]
        return said

    shop.line.answers = hide
    shop.at_zoho.faults.add(Fault(f"{LIST}/*", status=404, body=body))
    run = shop.open()
    assert waits_for_zoho_and_goes_on(shop, run)
    assert (shop.find(run).suspects, shop.buried()) == (5, 0)


# A list that lies


@KNOWN
@pytest.mark.parametrize("count", [450, 400], ids=["a last page that is short", "one that is full"])
@pytest.mark.parametrize("times", [1, None], ids=["once", "for ever"])
def test_a_last_page_that_claims_to_have_more(shop: Shop, is_known: bool, count: int, times: int | None) -> None:
    prepare(shop, is_known=is_known, count=count)
    last = 3 if count > 400 or is_known else 2
    shop.at_zoho.faults.add(Fault(LIST, query={"page": f"{last}"}, has_more_page=True, times=times))
    run = shop.run()
    assert shop.is_right_or_honest(run)
    assert run.state == "complete" if times else run.state in ("complete", "partial")


@KNOWN
@pytest.mark.parametrize("page", [1, 2])
@pytest.mark.parametrize("times", [1, None], ids=["once", "for ever"])
def test_a_page_in_the_middle_that_claims_to_be_the_last(
    shop: Shop, is_known: bool, page: int, times: int | None
) -> None:
    prepare(shop, is_known=is_known, count=650)
    shop.at_zoho.faults.add(Fault(LIST, query={"page": f"{page}"}, has_more_page=False, times=times))
    run = shop.run()
    assert run.state in ("complete", "partial")
    assert shop.is_right_or_honest(run)


@KNOWN
@pytest.mark.parametrize("times", [1, None], ids=["once", "for ever"])
def test_an_empty_page_in_the_middle_that_claims_to_be_the_last(shop: Shop, is_known: bool, times: int | None) -> None:
    prepare(shop, is_known=is_known, count=650)
    shop.at_zoho.faults.add(Fault(LIST, empty_page=True, has_more_page=False, after=2, times=times))
    run = shop.run()
    assert run.state in ("complete", "partial")
    assert shop.is_right_or_honest(run)


@pytest.mark.parametrize(
    ("known", "fault"),
    [
        (395, Fault(LIST, query={"page": "2"}, has_more_page=False)),
        (405, Fault(LIST, query={"page": "2"}, has_more_page=False)),
        (395, Fault(LIST, query={"page": "3"}, has_more_page=False, empty_page=True)),
        (400, Fault(LIST, query={"page": "3"}, has_more_page=False, empty_page=True)),
        (405, Fault(LIST, query={"page": "3"}, has_more_page=False, empty_page=True)),
        (400, Fault(LIST, query={"page": "3"}, has_more_page=False, empty_page=True, times=1)),
    ],
    ids=["page 2 ends, 395", "page 2 ends, 405", "page 3 empty, 395", "400", "405", "400, once"],
)
def test_new_items_behind_the_known_ones_are_not_lost_to_a_lie(shop: Shop, known: int, fault: Fault) -> None:
    """They are no suspects: that they are missing shows nowhere."""
    shop.stock(known)
    shop.complete()
    shop.clock.shift = 2 * SECOND
    shop.add(20)
    shop.at_zoho.faults.add(fault)
    run = shop.run()
    assert run.state in ("complete", "partial")
    assert shop.is_right_or_honest(run)


def test_new_items_behind_a_lie_that_nothing_refutes_are_the_next_recent_runs(shop: Shop) -> None:
    """A full page that ends with the last known item is not looked behind: that would cost every run one more call."""
    shop.stock(400)
    shop.complete()
    shop.clock.shift = 2 * SECOND
    new = shop.add(20)
    shop.at_zoho.faults.add(Fault(LIST, query={"page": "2"}, has_more_page=False))
    run = shop.run()
    assert shop.differences().keys() <= set(new)
    assert run.watermark is None or run.watermark < shop.catalogue.get(new[0]).last_modified_time
    shop.at_zoho.faults.clear()
    shop.complete("recent")
    assert shop.differences() == {}


@pytest.mark.parametrize("lie", [True, False])
def test_a_recent_run_is_not_misled_either(shop: Shop, lie: bool) -> None:
    ids = shop.stock(450)
    before = shop.complete()
    shop.edit(ids[:430])
    shop.at_zoho.faults.add(Fault(LIST, has_more_page=lie))
    run = shop.run("recent")
    assert run.state in ("complete", "partial")
    assert shop.is_right_or_honest(run)
    shop.at_zoho.faults.clear()
    again = shop.complete("recent")
    assert again.modified_since == (run.watermark or before.watermark or again.started_at) - runs.RECENT_OVERLAP
    assert shop.differences() == {}


# The token and the quota


@KNOWN
def test_a_token_that_ends_in_the_middle_is_replaced_and_the_reading_goes_on(shop: Shop, is_known: bool) -> None:
    prepare(shop, is_known=is_known)
    refreshes = shop.at_zoho.token_refreshes
    shop.line.before_list_call[2] = shop.at_zoho.tokens.expire_access_tokens
    run = shop.complete()
    assert shop.is_right_or_honest(run)
    assert shop.at_zoho.token_refreshes <= max(refreshes, 1) + 1
    assert shop.line.pages().count(1) == 1


@KNOWN
@pytest.mark.parametrize(
    ("code", "closed_for"),
    [(44, timedelta(seconds=60)), (45, timedelta(seconds=1)), (1070, timedelta(seconds=1))],
)
def test_a_spent_quota_suspends_the_run_which_goes_on_after_it(
    shop: Shop, is_known: bool, code: int, closed_for: timedelta
) -> None:
    prepare(shop, is_known=is_known)
    shop.at_zoho.faults.add(once(Fault(LIST, status=429, code=code)))
    run = shop.open()
    suspended = shop.work(run)
    assert (suspended.state, suspended.pages, suspended.failures) == ("running", 1, 0)
    assert suspended.error_class == "BudgetSpent"
    assert f"code {code}" in (suspended.error or "")
    (gate,) = shop.execute("SELECT closed_until, now() AS now FROM api_gate")
    assert gate["now"] + closed_for < gate["closed_until"] <= suspended.claimable_at
    if code == 45:
        tomorrow = (gate["now"] + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        assert gate["closed_until"] == tomorrow
    calls = len(shop.line.asked)
    # Neither a message that comes too early nor one that ignores the time leads to a call.
    shop.work(run)
    assert shop.find(run).attempts == suspended.attempts
    if code != 1070:
        shop.make_run_due(run)
        assert "breaker is open" in (shop.work(run).error or "")
    assert len(shop.line.asked) == calls
    shop.line.forget()
    shop.let_pass(run, timedelta(days=2))
    run = shop.work(run)
    assert (run.state, run.error) == ("complete", None)
    assert shop.is_right_or_honest(run)
    assert 1 not in shop.line.pages()


def test_a_quota_that_stays_spent_never_fails_a_run(shop: Shop) -> None:
    prepare(shop, is_known=True)
    shop.at_zoho.faults.add(Fault(LIST, status=429, code=44, after=1, times=2 * MOST_FAILURES))
    run = shop.open()
    for _time in range(2 * MOST_FAILURES):
        now = shop.work(run)
        assert (now.state, now.failures, now.pages) == ("running", 0, 1)
        shop.let_pass(run, timedelta(minutes=20))
    run = shop.work(run)
    assert run.state == "complete"
    assert shop.is_right_or_honest(run)


def test_the_mirrors_own_minute_suspends_a_run_without_a_call_too_many(
    served: ServedZoho, pool: Pool, database_url: str
) -> None:
    with open_shop(served, pool, database_url, ZOHO_REQUESTS_PER_MINUTE="3") as shop:
        shop.stock(450)
        run = shop.open()
        shop.worker = dataclasses.replace(shop.worker, pace=Pace(calls_per_minute=2, calls_at_once=3))
        suspended = shop.work(run)
        assert (suspended.state, suspended.error_class, suspended.pages) == ("running", "BudgetSpent", 2)
        # One of the three is kept for single items.
        assert len(shop.line.asked) == 2
        assert timedelta(seconds=50) < shop.waits(run) < timedelta(seconds=65)
        shop.let_pass(run, timedelta(seconds=66))
        run = shop.work(run)
        assert run.state == "complete"
        assert shop.is_right_or_honest(run)


def test_a_run_waits_for_zoho_to_be_connected(served: ServedZoho, pool: Pool, database_url: str) -> None:
    with open_shop(served, pool, database_url, ZOHO_REFRESH_TOKEN="") as shop:
        ids = shop.stock(50)
        run = shop.open()
        waiting = shop.work(run)
        assert (waiting.state, waiting.error_class, waiting.failures) == ("running", "NotConnected", 0)
        assert shop.waits(run) > timedelta(seconds=5)
        assert shop.is_right_or_honest(waiting)
        assert shop.line.asked == []
        catalogue = shop.catalogue
    with open_shop(served, pool, database_url) as connected:
        connected.at_zoho.catalogue = catalogue
        connected.let_pass(run, timedelta(hours=1))
        run = connected.work(run)
        assert (run.state, run.seen) == ("complete", len(ids))
        assert connected.is_right_or_honest(run)


def test_a_connection_that_is_revoked_in_the_middle_makes_the_run_wait_for_a_new_one(
    served: ServedZoho, pool: Pool, database_url: str
) -> None:
    with open_shop(served, pool, database_url) as shop:
        prepare(shop, is_known=True)
        shop.line.before_list_call[2] = lambda: shop.at_zoho.tokens.revoke(REFRESH_TOKEN)
        run = shop.open()
        waiting = shop.work(run)
        assert (waiting.state, waiting.error_class, waiting.pages) == ("running", "NotConnected", 1)
        assert shop.is_right_or_honest(waiting)
        catalogue = shop.catalogue
    with open_shop(served, pool, database_url) as shop:
        code = {"grant_type": "authorization_code", "code": shop.at_zoho.tokens.issue_code()}
        client = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        token = shop.at_zoho.tokens.grant(code | client).refresh_token
        tokens = shop.at_zoho.tokens
    with open_shop(served, pool, database_url, ZOHO_REFRESH_TOKEN=f"{token}") as shop:
        shop.at_zoho.tokens, shop.at_zoho.catalogue = tokens, catalogue
        shop.let_pass(run, timedelta(hours=1))
        run = shop.work(run)
        # The new connection is tried out first, by a page.
        assert (run.state, shop.line.pages()) == ("complete", [1, 2, 3, 3])
        assert shop.is_right_or_honest(run)


# Workers


@KNOWN
@pytest.mark.parametrize("call", [2, 3])
def test_after_a_worker_that_died_another_goes_on_at_the_next_page(shop: Shop, call: int, is_known: bool) -> None:
    prepare(shop, is_known=is_known)

    def die() -> None:
        raise Killed

    shop.line.before_list_call[call] = die
    run = shop.open()
    with pytest.raises(Killed):
        shop.worker.work(run.id)
    left = shop.find(run)
    assert (left.state, left.pages) == ("running", call - 1)
    successor = dataclasses.replace(shop.worker, worker="worker:successor")
    # The lease keeps others away until it lapses.
    assert shop.work(run, successor).attempts == 1
    assert timedelta(0) < shop.waits(run) <= runs.LEASE
    shop.make_run_due(run)
    shop.line.forget()
    run = shop.work(run, successor)
    assert (run.state, run.attempts, run.claimed_by) == ("complete", 2, "worker:successor")
    assert shop.line.pages()[0] == call
    assert 1 not in shop.line.pages()
    assert run.seen == len(shop.catalogue)
    assert shop.is_right_or_honest(run)


def test_after_a_worker_that_died_among_the_checks_another_makes_those_that_are_left(shop: Shop) -> None:
    ids = shop.stock(50)
    shop.complete()
    shop.remove(ids[:5])
    shop.line.forget()

    def die() -> None:
        if shop.line.item_calls() == 3:
            raise Killed

    shop.line.before_item_call = die
    run = shop.open()
    with pytest.raises(Killed):
        shop.worker.work(run.id)
    assert shop.find(run).deleted == 2
    shop.line.before_item_call = lambda: None
    shop.make_run_due(run)
    shop.line.forget()
    run = shop.work(run)
    assert (run.state, run.deleted, shop.line.item_calls(), shop.line.pages()) == ("complete", 5, 3, [])
    assert shop.is_right_or_honest(run)


def test_a_worker_that_is_told_to_stop_hands_the_run_back_after_its_page(shop: Shop) -> None:
    prepare(shop, is_known=True)
    is_stopping = threading.Event()
    shop.line.before_list_call[2] = is_stopping.set
    run = shop.open()
    left = shop.work(run, dataclasses.replace(shop.worker, is_stopping=is_stopping.is_set))
    assert (left.state, left.error) == ("running", None)
    assert 1 <= left.pages <= 2
    assert shop.waits(run) <= timedelta(0)
    shop.line.forget()
    run = shop.work(run)
    assert (run.state, shop.line.pages()[0]) == ("complete", left.pages + 1)
    assert shop.is_right_or_honest(run)


class Frozen:
    """A worker that stands still before its second page until it is let go."""

    def __init__(self, shop: Shop, run: Run) -> None:
        self.is_let_go = threading.Event()
        self.failure: BaseException | None = None
        self._stands_still = threading.Event()
        shop.line.before_list_call[2] = self._stand_still
        self._thread = threading.Thread(target=self._work, args=(shop, run), daemon=True)
        self._thread.start()
        assert self._stands_still.wait(DEADLINE)

    def _work(self, shop: Shop, run: Run) -> None:
        try:
            shop.worker.work(run.id)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def _stand_still(self) -> None:
        self._stands_still.set()
        assert self.is_let_go.wait(DEADLINE)

    def let_go(self) -> None:
        self.is_let_go.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def wait_for_pages(shop: Shop, run: Run, pages: int) -> None:
    """Wait until the page before the frozen one is merged, which happens meanwhile."""
    pause = threading.Event()
    for _look in range(int(DEADLINE / 0.01)):
        if shop.find(run).pages >= pages:
            return
        pause.wait(0.01)
    raise AssertionError("the page was not merged")


@KNOWN
def test_a_frozen_worker_whose_lease_lapsed_commits_nothing_more(shop: Shop, is_known: bool) -> None:
    prepare(shop, is_known=is_known)
    run = shop.open()
    frozen = Frozen(shop, run)
    wait_for_pages(shop, run, 1)
    shop.make_run_due(run)
    ended = shop.work(run, dataclasses.replace(shop.worker, worker="worker:successor"))
    assert ended.state == "complete"
    rows, pages = shop.rows(), ended.pages
    frozen.let_go()
    assert frozen.failure is None
    assert shop.rows() == rows
    assert shop.find(run) == ended
    assert (ended.pages, ended.seen) == (pages, len(shop.catalogue))
    assert shop.is_right_or_honest(ended)


def test_a_frozen_worker_commits_nothing_into_a_run_that_another_is_working_on(shop: Shop) -> None:
    prepare(shop, is_known=True)
    run = shop.open()
    frozen = Frozen(shop, run)
    wait_for_pages(shop, run, 1)
    shop.make_run_due(run)
    with shop.pool.connection() as connection:
        other = runs.claim(connection, run.id, worker="worker:other")
    assert other is not None
    before, rows = shop.find(run), shop.rows()
    frozen.let_go()
    assert frozen.failure is None
    assert (shop.find(run), shop.rows()) == (before, rows)
    with shop.pool.connection() as connection:
        assert runs.renew_lease(connection, other)


@pytest.mark.parametrize("status", [400, 500, 429], ids=["for good", "for now", "for the quota"])
def test_a_frozen_worker_that_wakes_up_to_a_failure_ends_no_run_of_another(shop: Shop, status: int) -> None:
    prepare(shop, is_known=True)
    run = shop.open()
    frozen = Frozen(shop, run)
    wait_for_pages(shop, run, 1)
    shop.make_run_due(run)
    with shop.pool.connection() as connection:
        assert runs.claim(connection, run.id, worker="worker:other")
    before = shop.find(run)
    shop.at_zoho.faults.add(Fault(LIST, status=status, code=44 if status == 429 else 1000))
    frozen.let_go()
    assert frozen.failure is None
    assert shop.find(run) == before


def test_two_workers_at_once_do_the_work_once(shop: Shop) -> None:
    prepare(shop, is_known=True)
    run = shop.open()
    workers = [dataclasses.replace(shop.worker, worker=f"worker:{number}") for number in range(3)]
    run_together([lambda worker=worker: worker.work(run.id) for worker in workers])  # type: ignore[misc]
    run = shop.find(run)
    assert (run.state, run.attempts) == ("complete", 1)
    assert shop.line.pages() == [1, 2, 3, 3]
    assert shop.is_right_or_honest(run)
    (twice,) = shop.execute(
        """SELECT count(*) FROM (SELECT FROM product_changes WHERE run_id = %(id)s
                                  GROUP BY item_id HAVING count(*) > 1) AS twice""",
        id=run.id,
    )
    assert twice["count"] == 0


def test_only_one_run_of_a_kind_is_under_way(shop: Shop) -> None:
    full, recent = shop.open(), shop.open("recent")
    opened: list[Run | None] = []

    def open_another() -> None:
        with shop.pool.connection() as connection:
            opened.append(runs.open_run(connection, "full", "schedule"))

    run_together([open_another] * 4)
    assert opened == [None] * 4
    publisher = Publisher()
    started = operations.start_run(shop.pool, publisher, "full", Requester("cli", "somebody"), budget=2000)
    assert (started.run.id, started.is_new, publisher.runs) == (full.id, False, [full.id])
    shop.finish(full)
    assert shop.find(recent).state == "running"
    assert operations.start_run(shop.pool, publisher, "full", Requester("cli", "somebody"), budget=2000).is_new


def test_runs_started_at_once_are_one_run(shop: Shop) -> None:
    started: list[operations.StartedRun] = []

    def start() -> None:
        started.append(operations.start_run(shop.pool, Publisher(), "full", Requester("console", "olga"), budget=2000))

    run_together([start] * 6)
    assert len({each.run.id for each in started}) == 1
    assert [each.is_new for each in started].count(True) == 1


def test_a_full_and_a_recent_run_at_once_disturb_each_other_in_nothing(shop: Shop) -> None:
    prepare(shop, is_known=True)
    full, recent = shop.open(), shop.open("recent")
    run_together([lambda: shop.worker.work(full.id), lambda: shop.worker.work(recent.id)])
    assert (shop.finish(full).state, shop.finish(recent).state) == ("complete", "complete")
    assert shop.is_right_or_honest(shop.find(full))
    changes = shop.execute("SELECT item_id FROM product_changes WHERE run_id IS NOT NULL AND cause <> 'first_load'")
    assert len(changes) == len({change["item_id"] for change in changes})
