"""Reading a list that changes meanwhile: nothing unknown slips between two pages, and nothing is read in vain."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.errors import ListUntrustworthy, ZohoUnavailable
from processors.store.runs import KeptPage
from processors.workflows import paging
from processors.workflows.paging import PER_PAGE, Frontier, Listing, Pace, ReadPage, Window, next_window
from processors.zoho.listing import ListedItem, ListedPage

START = datetime(2026, 10, 5, 12, tzinfo=UTC)
ONE_BY_ONE = Pace(calls_per_minute=72, calls_at_once=1)
SEVERAL = Pace(calls_per_minute=10**12, calls_at_once=3)
"""However quick a call is, three are worth it."""

DEADLINE = 20.0
ENDLESS = 300
"""No list of these tests takes so many calls."""


# The next window

POSITIONS = st.integers(0, 10**6)


@given(POSITIONS, st.integers(0, 10**5), st.integers(1, PER_PAGE))
def test_a_window_reaches_back_as_far_as_it_is_asked_to(read_to: int, overlap: int, per_page: int) -> None:
    assert next_window(read_to, overlap=overlap, per_page=per_page).start <= max(0, read_to - overlap)


@given(POSITIONS)
def test_with_the_usual_overlap_a_window_still_goes_on_by_almost_a_page(read_to: int) -> None:
    window = next_window(read_to, overlap=paging._OVERLAP)
    assert window.start <= max(0, read_to - paging._OVERLAP)
    assert window.end > read_to
    assert PER_PAGE // 2 <= window.per_page <= PER_PAGE


@given(POSITIONS, st.integers(1, PER_PAGE))
def test_without_overlap_windows_leave_no_gap_and_go_on(read_to: int, per_page: int) -> None:
    window = next_window(read_to, overlap=0, per_page=per_page)
    assert window.start <= read_to < window.end
    assert 1 <= window.per_page <= per_page


@given(st.integers(0, 10**4), st.integers(1, PER_PAGE))
def test_without_overlap_the_window_at_a_multiple_of_the_size_is_the_next_page(pages: int, per_page: int) -> None:
    assert next_window(pages * per_page, overlap=0, per_page=per_page) == Window(pages + 1, per_page)


@given(POSITIONS, st.integers(0, 400))
def test_no_other_page_of_an_allowed_size_that_reaches_back_so_far_reaches_further(read_to: int, overlap: int) -> None:
    chosen = next_window(read_to, overlap=overlap)
    start = max(0, read_to - overlap)
    sizes = range(PER_PAGE // 2, PER_PAGE + 1)
    assert chosen.end == max(size * (start // size + 1) for size in sizes)


@pytest.mark.parametrize("calls_at_once", [1, 3, 10])
@given(seconds=st.floats(0, 100), calls_per_minute=st.integers(1, 100))
def test_as_many_calls_are_under_way_as_the_quota_feeds_and_no_more_than_allowed(
    calls_at_once: int, seconds: float, calls_per_minute: int
) -> None:
    depth = Pace(calls_per_minute, calls_at_once).depth(seconds)
    assert 1 <= depth <= calls_at_once
    assert depth == calls_at_once or depth >= seconds * calls_per_minute / 60


def test_one_call_at_a_time_is_enough_where_calls_are_quicker_than_the_quota() -> None:
    assert [Pace(60, 4).depth(seconds) for seconds in (0, 0.4, 0.9, 1.6, 2.6, 60)] == [1, 1, 1, 2, 3, 4]


# A list that changes


@dataclass(frozen=True)
class Change:
    """What happens to the list before an answer."""

    delete_at: int = 0
    delete: int = 0
    create: int = 0
    touch_at: int = 0
    touch: int = 0
    """These move to the front, as in a list by the time of modification."""


@dataclass
class Zoho:
    """A list of numbers in memory: the nth was created n seconds after the start. It changes before each answer."""

    size: int
    changes: Sequence[Change] = ()
    takes_only: int | None = None
    """The one size of pages that it gives."""
    tells_size: bool = True
    hidden: AbstractSet[int] = frozenset()
    """Positions that it counts and does not show."""
    lies: Callable[[Window, bool, bool], bool] = lambda _window, has_more, _is_short: has_more
    """What it says of there being more."""
    items: list[int] = field(default_factory=list)
    asked: list[Window] = field(default_factory=list)
    deleted: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)
    visible_at: list[set[int]] = field(default_factory=list)
    """What it would have shown at each call."""

    def __post_init__(self) -> None:
        self.items = list(range(self.size))
        self.original = frozenset(self.items)
        self._next = self.size
        self._pending = iter(self.changes)
        self._lock = threading.Lock()

    @property
    def always_there(self) -> AbstractSet[int]:
        return self.original - self.deleted - self.touched

    def answer(self, window: Window) -> ListedPage:
        with self._lock:
            self.asked.append(window)
            assert len(self.asked) < ENDLESS, "the reading does not come to an end"
            self._change(next(self._pending, Change()))
            self.visible_at.append(self.visible())
            size = self.takes_only or window.per_page
            start = (window.page - 1) * size
            stretch = range(start, min(start + size, len(self.items)))
            shown = [self.items[position] for position in stretch if position not in self.hidden]
            has_more = self.lies(window, start + size < len(self.items), len(shown) < size)
            return page_of(shown, has_more=has_more, per_page=size if self.tells_size else None)

    def visible(self) -> set[int]:
        return {item for position, item in enumerate(self.items) if position not in self.hidden}

    def _change(self, change: Change) -> None:
        at = change.delete_at % (len(self.items) + 1)
        self.deleted.update(self.items[at : at + change.delete])
        del self.items[at : at + change.delete]
        self.items += range(self._next, self._next + change.create)
        self._next += change.create
        at = change.touch_at % (len(self.items) + 1)
        touched = self.items[at : at + change.touch]
        del self.items[at : at + change.touch]
        self.items[:0] = touched
        self.touched.update(touched)


def at(number: int) -> datetime:
    return START + timedelta(seconds=number)


def page_of(numbers: Sequence[int], *, has_more: bool, per_page: int | None) -> ListedPage:
    items = tuple(ListedItem(b"", str(number), at(number), None, None) for number in numbers)
    return ListedPage(items, has_more, per_page)


class InTurn:
    """An executor without threads: a call is answered as it is asked for, or only when its answer is wanted."""

    def __init__(self, at_once: Iterator[bool]) -> None:
        self._at_once = at_once

    def __call__(self, *_: object, **__: object) -> InTurn:
        return self

    def submit(self, work: Callable[[Window], ListedPage], window: Window) -> Future[ListedPage]:
        future = _Wanted(lambda: work(window))
        if next(self._at_once, True):
            future.result()
        return future

    def shutdown(self, **_: object) -> None:
        """There is nothing to end."""


class _Wanted(Future[ListedPage]):
    def __init__(self, work: Callable[[], ListedPage]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> ListedPage:
        if not self.done():
            self.set_result(self._work())
        return super().result(timeout)


def listing(
    zoho: Zoho,
    *,
    read_to: int = 0,
    last: KeptPage | None = None,
    known: int | None = None,
    expected: int = 0,
    pace: Pace = ONE_BY_ONE,
    is_by_creation: bool | None = None,
    frontier: Frontier | None = None,
    shown: int = 0,
    goes_on: Callable[[], bool] = lambda: True,
) -> Listing:
    """Read it; what was created before `known` seconds had passed is known. That matters by creation only."""
    return Listing(
        zoho.answer,
        read_to=read_to,
        last=last,
        known_until=frontier if known is None else Frontier(None, at(known)),
        expected=expected,
        pace=pace,
        shown=shown,
        is_by_creation=known is not None if is_by_creation is None else is_by_creation,
        goes_on=goes_on,
    )


def begun(reading: Listing) -> Generator[ReadPage]:
    """Return its pages as what they are, to be closed before their end."""
    pages = reading.pages()
    assert isinstance(pages, Generator)
    return pages


def numbers(pages: Sequence[ReadPage]) -> list[int]:
    return [int(item.item_id or -1) for read in pages for item in read.page.items]


def kept(read: ReadPage) -> KeptPage:
    """What a run keeps of a page."""
    ids = [item.item_id for item in read.page.items if item.item_id is not None]
    return KeptPage(ids, read.page.items[-1].created_at if read.page.items else None)


def read_in_stretches(
    zoho: Zoho,
    stretches: Sequence[int],
    *,
    known: int | None,
    pace: Pace,
    is_by_creation: bool | None = None,
    frontier: Frontier | None = None,
    expected: int | None = None,
) -> list[ReadPage]:
    """Read to the end, with a new reading after so many pages each, as when a worker is killed and another goes on."""
    pages: list[ReadPage] = []
    lengths = iter(stretches)
    while True:
        last = kept(next((read for read in reversed(pages) if read.page.items), pages[-1])) if pages else None
        read_to = pages[-1].read_to if pages else 0
        asked = listing(
            zoho,
            read_to=read_to,
            last=last,
            known=known,
            expected=zoho.size if expected is None else expected,
            pace=pace,
            is_by_creation=is_by_creation,
            frontier=frontier,
            shown=len(set(numbers(pages))),
        )
        reading = begun(asked)
        length = next(lengths, ENDLESS)
        for read in reading:
            pages.append(read)
            if read.is_last:
                return pages
            length -= 1
            if not length:
                break
        reading.close()


@contextmanager
def small_pages() -> Iterator[None]:
    """Let pages hold a tenth of what they do, so that short lists have many."""
    with patch.multiple(paging, PER_PAGE=20, _SMALLEST_PAGE=10, _OVERLAP=3):
        yield


FEW = st.integers(0, 4)
MANY = st.integers(0, 45)
ANYWHERE = st.integers(0, 150)
READING = {
    "size": ANYWHERE,
    "stretches": st.lists(st.integers(1, 4), max_size=4),
    "pace": st.sampled_from([ONE_BY_ONE, SEVERAL]),
    "at_once": st.lists(st.booleans(), max_size=20),
}


def changes(**kinds: st.SearchStrategy[int]) -> st.SearchStrategy[list[Change]]:
    return st.lists(st.builds(Change, **kinds), max_size=20)


@settings(deadline=None, max_examples=300)
@given(
    changes=changes(delete_at=ANYWHERE, delete=FEW | MANY, create=FEW | MANY),
    known=st.none() | st.integers(0, 160),
    **READING,
)
def test_every_unknown_item_that_is_there_all_the_time_is_read_whatever_is_deleted_and_created(
    size: int, changes: list[Change], known: int | None, stretches: list[int], pace: Pace, at_once: list[bool]
) -> None:
    zoho = Zoho(size, changes)
    with small_pages(), patch.object(paging, "ThreadPoolExecutor", InTurn(iter(at_once))):
        try:
            pages = read_in_stretches(zoho, stretches, known=known, pace=pace, is_by_creation=True)
        except ZohoUnavailable:
            # Everything was deleted: whether that is so, or a fault of the list, the next try tells.
            assert zoho.always_there == set()
            return
    missed = zoho.always_there - set(numbers(pages))
    assert {number for number in missed if known is None or number >= known} == set()
    assert not missed or zoho.deleted


def test_if_all_of_the_last_page_is_deleted_the_reading_goes_on_before_it() -> None:
    zoho = Zoho(117, [*[Change()] * 6, Change(delete_at=86, delete=31, create=4)])
    with small_pages():
        pages = read_in_stretches(zoho, [6], known=None, pace=ONE_BY_ONE, is_by_creation=True)
    assert {*range(86), *range(117, 121)} <= set(numbers(pages))
    assert pages[-1].is_last


@settings(deadline=None, max_examples=300)
@given(changes=changes(delete_at=ANYWHERE, delete=FEW | MANY, touch_at=ANYWHERE, touch=FEW | MANY), **READING)
@example(
    # Read ahead, the third page was answered before the second, between which so much moved that they only seemed to
    # meet.
    size=66,
    changes=[Change(), Change(), Change(delete=20), Change(), Change(touch_at=15, touch=31)],
    stretches=[1],
    pace=SEVERAL,
    at_once=[False] * 6,
)
def test_by_modification_every_item_that_is_left_alone_meanwhile_is_read(
    size: int, changes: list[Change], stretches: list[int], pace: Pace, at_once: list[bool]
) -> None:
    zoho = Zoho(size, changes)
    with small_pages(), patch.object(paging, "ThreadPoolExecutor", InTurn(iter(at_once))):
        try:
            pages = read_in_stretches(zoho, stretches, known=None, pace=pace)
        except ZohoUnavailable:
            # Everything was deleted: whether that is so, or a fault of the list, the next try tells.
            assert zoho.always_there == set()
            return
    assert zoho.always_there <= set(numbers(pages))


@settings(deadline=None, max_examples=100)
@given(known=st.none() | st.integers(0, 160), **READING)
def test_of_a_list_that_rests_everything_is_read_in_its_order(
    size: int, known: int | None, stretches: list[int], pace: Pace, at_once: list[bool]
) -> None:
    zoho = Zoho(size)
    with small_pages(), patch.object(paging, "ThreadPoolExecutor", InTurn(iter(at_once))):
        pages = read_in_stretches(zoho, stretches, known=known, pace=pace)
    assert list(dict.fromkeys(numbers(pages))) == list(range(size))
    assert pages[-1].read_to == size
    assert [read.is_last for read in pages] == [False] * (len(pages) - 1) + [True]


@settings(deadline=None, max_examples=100)
@given(size=st.integers(0, 150), takes_only=st.integers(4, 20), known=st.none() | ANYWHERE)
def test_of_a_zoho_that_gives_one_size_of_pages_everything_is_read_edge_to_edge(
    size: int, takes_only: int, known: int | None
) -> None:
    zoho = Zoho(size, takes_only=takes_only)
    with small_pages(), patch.object(paging, "ThreadPoolExecutor", InTurn(iter(()))):
        pages = read_in_stretches(zoho, [], known=known, pace=ONE_BY_ONE)
    assert list(dict.fromkeys(numbers(pages))) == list(range(size))


@settings(deadline=None, max_examples=100)
@given(size=st.integers(0, 150), takes_only=st.integers(4, 20), known=st.none() | ANYWHERE)
@example(size=20, takes_only=20, known=None)
def test_of_a_zoho_that_does_not_tell_its_one_size_everything_is_read_or_nothing_is_trusted(
    size: int, takes_only: int, known: int | None
) -> None:
    zoho = Zoho(size, takes_only=takes_only, tells_size=False)
    with small_pages(), patch.object(paging, "ThreadPoolExecutor", InTurn(iter(()))):
        try:
            pages = read_in_stretches(zoho, [], known=known, pace=ONE_BY_ONE)
        except (ZohoUnavailable, ListUntrustworthy):
            return
    assert list(dict.fromkeys(numbers(pages))) == list(range(size))


# A list that hides some of its positions, and is wrong about its length

LIES: dict[str, Callable[[Window, bool, bool], bool]] = {
    "truth": lambda _window, has_more, _is_short: has_more,
    "short pages are the last": lambda _window, has_more, is_short: has_more and not is_short,
    "every page is the last": lambda _window, _has_more, _is_short: False,
    "no page is the last": lambda _window, _has_more, _is_short: True,
    "the second page is the last": lambda window, has_more, _is_short: has_more and window.page != 2,
}


def night(zoho: Zoho, known: set[int], frontier: Frontier | None, **how: Any) -> Frontier | None:
    """Read the list once; what was shown all the time is read, or known and so looked up. Return its last item."""
    zoho.asked.clear()
    zoho.visible_at = [zoho.visible()]
    with small_pages():
        pages = read_in_stretches(
            zoho, known=None, is_by_creation=True, frontier=frontier, expected=len(known & set(zoho.items)), **how
        )
    read = set(numbers(pages))
    assert set.intersection(*zoho.visible_at) - read - known == set()
    known |= read
    items = [item for read in pages for item in read.page.items]
    return Frontier(items[-1].item_id, items[-1].created_at) if items else Frontier(None, None)


def hiding(longest: int) -> st.SearchStrategy[set[int]]:
    """Return positions, so many of them in a row at most."""

    def spread(runs: list[tuple[int, int]]) -> set[int]:
        begins = itertools.accumulate(gap + length + 1 for gap, length in runs)
        return {at - 1 - n for at, (_, length) in zip(begins, runs, strict=True) for n in range(length)}

    return st.lists(st.tuples(st.integers(0, 60), st.integers(1, longest)), max_size=5).map(spread)


HIDDEN = {
    "size": ANYWHERE,
    "changes": changes(delete_at=ANYWHERE, delete=FEW, create=FEW),
    "stretches": st.lists(st.integers(1, 4), max_size=4),
    "pace": st.sampled_from([ONE_BY_ONE, SEVERAL]),
    "at_once": st.lists(st.booleans(), max_size=20),
}


def three_nights(zoho: Zoho, stretches: list[int], pace: Pace, at_once: list[bool]) -> None:
    known: set[int] = set()
    frontier: Frontier | None = None
    for _night in range(3):
        with patch.object(paging, "ThreadPoolExecutor", InTurn(iter(at_once))):
            try:
                frontier = night(zoho, known, frontier, stretches=stretches, pace=pace)
            except ListUntrustworthy:
                # The run says so, and is not complete.
                continue
            except ZohoUnavailable:
                assert not zoho.visible_at[-1] or not set.intersection(*zoho.visible_at)


@settings(deadline=None, max_examples=300)
@given(hidden=hiding(8), lie=st.sampled_from(sorted(LIES)), **HIDDEN)
def test_whatever_is_hidden_and_said_of_the_length_what_is_shown_is_read_three_nights_in_a_row(
    size: int,
    changes: list[Change],
    hidden: set[int],
    lie: str,
    stretches: list[int],
    pace: Pace,
    at_once: list[bool],
) -> None:
    three_nights(Zoho(size, changes, hidden=hidden, lies=LIES[lie]), stretches, pace, at_once)


@settings(deadline=None, max_examples=200)
@given(hidden=hiding(70), **HIDDEN)
def test_where_only_the_truth_is_said_of_the_length_whole_pages_may_be_hidden(
    size: int,
    changes: list[Change],
    hidden: set[int],
    stretches: list[int],
    pace: Pace,
    at_once: list[bool],
) -> None:
    three_nights(Zoho(size, changes, hidden=hidden), stretches, pace, at_once)


HIDING = range(375, 400)


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_short_page_in_the_middle_is_no_end_and_the_next_nights_cost_a_call_for_each_page(lie: str) -> None:
    zoho = Zoho(531, hidden=frozenset(HIDING), lies=LIES[lie])
    calls = []
    frontier, known = None, 0
    for _night in range(3):
        zoho.asked.clear()
        pages = list(
            listing(zoho, frontier=frontier, expected=known, is_by_creation=True).pages(),
        )
        assert set(numbers(pages)) == zoho.visible()
        last = pages[-1].page.items[-1]
        frontier, known = Frontier(last.item_id, last.created_at), 506
        calls.append(len(zoho.asked))
    # A list that never ends is looked behind every night.
    is_endless = lie == "no page is the last"
    assert calls[0] <= (20 if is_endless else 10)
    assert calls[1:] == ([7, 7] if is_endless else [3, 3])


@pytest.mark.parametrize("hidden", [range(200, 400), range(195, 590), range(200, 800), range(400), range(800, 1000)])
@pytest.mark.parametrize("lie", ["truth", "short pages are the last"])
def test_pages_of_which_nothing_is_shown_are_no_end(hidden: range, lie: str) -> None:
    zoho = Zoho(1000, hidden=frozenset(hidden), lies=LIES[lie])
    pages = list(listing(zoho, is_by_creation=True).pages())
    is_within_proof = len(hidden) <= 400 or lie == "truth"
    assert set(numbers(pages)) == zoho.visible() or not is_within_proof
    assert len(zoho.asked) < 30


# One deletion after the other

ALL_KNOWN = 10**6


def windows(zoho: Zoho) -> list[tuple[int, int]]:
    return [(window.start, window.end) for window in zoho.asked]


def read_all(zoho: Zoho, *, known: int | None = None) -> list[ReadPage]:
    return list(listing(zoho, known=known, expected=zoho.size).pages())


def before_call(number: int, change: Change) -> list[Change]:
    return [Change()] * (number - 1) + [change]


def test_where_everything_is_known_pages_are_read_edge_to_edge() -> None:
    zoho = Zoho(1000)
    read_all(zoho, known=ALL_KNOWN)
    assert windows(zoho) == [(0, 200), (200, 400), (400, 600), (600, 800), (800, 1000)]


def test_what_slips_onto_a_page_that_was_read_is_read_by_stepping_back() -> None:
    zoho = Zoho(1000, before_call(3, Change(delete_at=10, delete=30)))
    assert set(numbers(read_all(zoho))) == set(range(1000))


def test_pages_edge_to_edge_step_back_where_the_first_unknown_item_may_have_slipped() -> None:
    # 400 to 409 are the first that are not known; after the deletion they stand on the page that was read already.
    zoho = Zoho(600, before_call(3, Change(delete_at=0, delete=10)))
    assert set(numbers(read_all(zoho, known=400))) == set(range(600))


def test_the_only_unknown_item_is_read_though_it_slips_onto_a_page_that_was_read() -> None:
    zoho = Zoho(401, before_call(3, Change(delete_at=0, delete=1)))
    assert 400 in numbers(read_all(zoho, known=400))


def test_a_known_item_that_slips_is_left_to_whoever_looks_it_up() -> None:
    zoho = Zoho(600, before_call(2, Change(delete_at=0, delete=1)))
    pages = read_all(zoho, known=ALL_KNOWN)
    assert zoho.always_there - set(numbers(pages)) == {200}


@pytest.mark.parametrize("deleted", [5, 80, 150, 199, 350, 800])
def test_however_much_is_deleted_while_a_run_waits_it_comes_to_its_end(deleted: int) -> None:
    zoho = Zoho(1500, before_call(6, Change(delete_at=0, delete=deleted)))
    pages = read_all(zoho)
    assert zoho.always_there <= set(numbers(pages))
    assert len(zoho.asked) < 30


@pytest.mark.parametrize("modified", [5, 150, 350, 450, 1000])
def test_however_much_is_modified_while_a_recent_run_waits_it_comes_to_its_end(modified: int) -> None:
    zoho = Zoho(1500, before_call(6, Change(touch_at=1500 - modified, touch=modified)))
    pages = read_all(zoho)
    assert zoho.always_there <= set(numbers(pages))
    assert len(zoho.asked) < 30


def test_a_full_last_page_that_is_emptied_while_it_is_looked_behind_is_not_read_for_ever() -> None:
    end = next_window(200, overlap=5).end
    zoho = Zoho(end, before_call(3, Change(delete_at=0, delete=15)))
    pages = read_all(zoho)
    assert zoho.always_there <= set(numbers(pages))
    assert len(zoho.asked) < 10


# The end of the list


def test_a_full_last_page_is_looked_behind_where_something_unknown_could_be() -> None:
    zoho = Zoho(200)
    read_all(zoho)
    assert len(zoho.asked) == 2
    assert zoho.asked[1].start < 200


def test_a_full_last_page_of_known_items_is_the_last() -> None:
    zoho = Zoho(200)
    (only,) = read_all(zoho, known=200)
    assert only.is_last
    assert windows(zoho) == [(0, 200)]


def test_what_is_created_behind_a_full_last_page_meanwhile_is_read() -> None:
    zoho = Zoho(200, before_call(2, Change(create=3)))
    assert set(numbers(read_all(zoho))) == set(range(203))


@pytest.mark.parametrize("known", [None, ALL_KNOWN])
def test_an_empty_list_costs_one_call(known: int | None) -> None:
    zoho = Zoho(0)
    (only,) = read_all(zoho, known=known)
    assert (only.is_last, only.read_to, only.page.items) == (True, 0, ())
    assert len(zoho.asked) == 1


def test_a_page_that_is_the_last_that_matters_is_the_last() -> None:
    zoho = Zoho(1000)
    reading = Listing(
        zoho.answer,
        read_to=0,
        last=None,
        known_until=None,
        expected=0,
        pace=ONE_BY_ONE,
        is_behind=lambda page: any(item.item_id == "250" for item in page.items),
    )
    assert [read.is_last for read in reading.pages()] == [False, True]
    assert len(zoho.asked) == 2


# Answers that cannot be


def answering(*pages: ListedPage) -> Listing:
    """Read what is answered in turn, the last of it again and again."""
    answers = itertools.chain(pages, itertools.repeat(pages[-1]))
    return Listing(
        lambda _window: next(answers),
        read_to=0,
        last=None,
        known_until=Frontier(None, at(ALL_KNOWN)),
        expected=0,
        pace=ONE_BY_ONE,
        is_by_creation=True,
    )


def test_a_list_that_shows_the_same_page_for_ever_is_not_trusted() -> None:
    for told in (200, None):
        with pytest.raises(ListUntrustworthy, match="the same"):
            list(answering(page_of(range(100), has_more=True, per_page=told)).pages())


@pytest.mark.parametrize("size", [0, -1, 201, 10**9])
def test_a_size_that_no_page_has_is_not_taken(size: int) -> None:
    with pytest.raises(ListUntrustworthy):
        list(answering(page_of(range(5), has_more=False, per_page=size)).pages())


def test_a_zoho_that_changes_its_size_again_is_not_trusted() -> None:
    first, second = (page_of(range(size), has_more=True, per_page=size) for size in (100, 50))
    with pytest.raises(ListUntrustworthy):
        list(answering(first, first, second).pages())


def test_more_items_than_were_asked_for_are_a_size_of_their_own() -> None:
    zoho = Zoho(450, takes_only=200, tells_size=False)
    last = KeptPage(["199"], at(199))
    pages = list(listing(zoho, read_to=200, last=last).pages())
    assert numbers(pages) == list(range(200, 450))
    assert [(window.page, window.per_page) for window in zoho.asked[1:]] == [(2, 200), (3, 200)]


def test_a_size_that_was_not_taken_begins_again_at_its_own_edge() -> None:
    zoho = Zoho(450, takes_only=100)
    last = KeptPage([str(number) for number in range(250)], at(249))
    pages = list(listing(zoho, read_to=250, last=last).pages())
    assert numbers(pages) == list(range(200, 450))


# Calls ahead, one after the other and at once


def test_the_next_page_is_asked_for_while_this_one_is_worked_on() -> None:
    zoho = Zoho(600)
    is_asked = threading.Event()

    def fetch(window: Window) -> ListedPage:
        if window.page == 2:
            is_asked.set()
        return zoho.answer(window)

    reading = begun(
        Listing(fetch, read_to=0, last=None, known_until=Frontier(None, at(600)), expected=0, pace=ONE_BY_ONE)
    )
    next(reading)
    assert is_asked.wait(DEADLINE)
    reading.close()


def test_several_calls_are_under_way_at_once_and_never_more_than_allowed() -> None:
    zoho = Zoho(2000)
    # After the first page, nobody goes on until three are there.
    three = threading.Barrier(SEVERAL.calls_at_once)
    under_way: list[int] = []
    most = 0
    lock = threading.Lock()

    def fetch(window: Window) -> ListedPage:
        nonlocal most
        with lock:
            under_way.append(window.page)
            most = max(most, len(under_way))
        if window.page > 1:
            three.wait(DEADLINE)
        with lock:
            under_way.remove(window.page)
        return zoho.answer(window)

    reading = Listing(
        fetch,
        read_to=0,
        last=None,
        known_until=Frontier(None, at(2000)),
        expected=2000,
        pace=SEVERAL,
        is_by_creation=True,
    )
    assert numbers(list(reading.pages())) == list(range(2000))
    assert most == 3
    assert len(zoho.asked) == 10


@pytest.mark.parametrize("size", [1, 199, 200, 201, 1000, 1001])
def test_nothing_is_asked_for_beyond_what_is_known_to_exist(size: int) -> None:
    zoho = Zoho(size)
    with patch.object(paging, "ThreadPoolExecutor", InTurn(iter(()))):
        list(listing(zoho, known=ALL_KNOWN, expected=size, pace=SEVERAL, is_by_creation=True).pages())
    assert len(zoho.asked) == -(-size // 200)


def test_what_is_not_known_to_exist_is_asked_for_ahead_by_a_quarter_of_what_was_read() -> None:
    zoho = Zoho(10_000)
    with patch.object(paging, "ThreadPoolExecutor", InTurn(iter(()))):
        for read in listing(zoho, known=ALL_KNOWN, pace=SEVERAL, is_by_creation=True).pages():
            ahead = max(window.end for window in zoho.asked) - read.read_to
            assert ahead <= 200 + read.read_to // 4
            if read.read_to >= 4000 and not read.is_last:
                assert ahead == min(600, 10_000 - read.read_to)
            if read.read_to >= 9000:
                break


def test_a_failed_call_is_raised_behind_the_pages_before_it() -> None:
    zoho = Zoho(2000)
    failure = ZohoUnavailable("dropped")

    def fetch(window: Window) -> ListedPage:
        if window.page == 3:
            raise failure
        return zoho.answer(window)

    reading = Listing(
        fetch, read_to=0, last=None, known_until=Frontier(None, at(2000)), expected=2000, pace=SEVERAL
    ).pages()
    assert [next(reading).read_to, next(reading).read_to] == [200, 400]
    with pytest.raises(ZohoUnavailable) as caught:
        next(reading)
    assert caught.value is failure


# Stopping and going on


def test_told_to_stop_it_asks_for_nothing_more() -> None:
    zoho = Zoho(2000)
    is_told = threading.Event()
    reading = listing(zoho, known=ALL_KNOWN, expected=2000, goes_on=lambda: not is_told.is_set())
    pages = []
    with patch.object(paging, "ThreadPoolExecutor", InTurn(iter(()))):
        for read in reading.pages():
            pages.append(read)
            if len(pages) == 2:
                is_told.set()
                asked = len(zoho.asked)
    assert len(zoho.asked) == asked == 3
    # What was under way already is worked on.
    assert numbers(pages) == list(range(600))
    assert not pages[-1].is_last


def test_told_to_stop_before_it_begins_it_asks_for_nothing() -> None:
    zoho = Zoho(10)
    assert list(listing(zoho, goes_on=lambda: False).pages()) == []
    assert zoho.asked == []


def test_a_new_reading_goes_on_where_the_last_one_was() -> None:
    zoho = Zoho(1000)
    reading = begun(listing(zoho, known=ALL_KNOWN))
    first = [next(reading), next(reading)]
    reading.close()
    zoho.asked.clear()
    rest = listing(zoho, known=ALL_KNOWN, read_to=first[-1].read_to, last=kept(first[-1])).pages()
    assert numbers(list(rest)) == list(range(400, 1000))
    assert windows(zoho)[0] == (400, 600)


def test_a_new_reading_among_unknown_items_makes_sure_that_nothing_slipped_meanwhile() -> None:
    zoho = Zoho(1000)
    reading = begun(listing(zoho))
    first = [next(reading), next(reading)]
    reading.close()
    zoho._change(Change(delete_at=0, delete=50))
    rest = list(listing(zoho, read_to=first[-1].read_to, last=kept(first[-1])).pages())
    assert zoho.always_there <= set(numbers([*first, *rest]))
