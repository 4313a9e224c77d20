"""Reads Zoho's item list page after page so that no item slips between two of them.

The list is computed anew for every call. Where an item is deleted that was read already, all behind it move up by one,
and what stood first on the next page is now last on a page that was read already: no page shows it. Two things keep
that from going unnoticed.

- What is known here and was shown by no page is looked at one by one afterwards (`reconciliation`). Everything up to
  the last item that the last complete run read is known here.
- Behind that the list may hold items that are not known here, and pages overlap: each begins with the last items of the
  page before it. If none of those is there any more, the reading steps back until one is.

A page is addressed by its number and its size, so pages that overlap are a little smaller than the largest: the fifth
page of 196 begins within the fourth of 197. Should Zoho not take such sizes (that is not documented), pages of the size
it takes are read edge to edge.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from processors import logs
from processors.errors import ListUntrustworthy, ZohoUnavailable
from processors.store.runs import KeptPage
from processors.zoho.listing import ListedPage

PER_PAGE = 200
"""The largest page that Zoho gives."""

_OVERLAP = 5
# So often the reading steps back before it gets any further; then it is given up.
_MOST_STEPS_BACK = 12
_SMALLEST_PAGE = PER_PAGE // 2

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the list, as a page of some size."""

    page: int
    per_page: int

    @property
    def start(self) -> int:
        """How many items of the list come before it."""
        return (self.page - 1) * self.per_page

    @property
    def end(self) -> int:
        """The position behind its last item."""
        return self.page * self.per_page


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast calls may be made; several at once are worth it only where one after the other would be slower."""

    calls_per_minute: int
    calls_at_once: int

    def depth(self, call_seconds: float) -> int:
        """Return how many calls to keep under way."""
        return max(1, min(self.calls_at_once, round(call_seconds * self.calls_per_minute / 60 + 0.5)))


@dataclass(frozen=True, slots=True)
class ReadPage:
    """A page in its place."""

    page: ListedPage
    read_to: int
    """The position that the reading has reached with it."""
    is_last: bool


@dataclass(frozen=True, slots=True)
class Frontier:
    """The last item of a list that was read to its end."""

    item_id: str | None
    created_at: datetime | None


def kept(page: ListedPage) -> KeptPage:
    """Return what is kept of a page."""
    return KeptPage([item.key for item in page.items], page.items[-1].created_at if page.items else None)


def _require_whole(window: Window, page: ListedPage, read_to: int) -> None:
    """Find a page that is shorter than it can be.

    Raises:
        ZohoUnavailable: it is; it may be whole the next time.
    """
    if page.has_more and len(page.items) < window.per_page:
        message = (
            f"Zoho's page {window.page} has {len(page.items)} items of {window.per_page}, "
            "and yet it says that there are more"
        )
        raise ZohoUnavailable(message)
    if not page.items and window.start == 0 and read_to > 0:
        message = "Zoho's list is empty all of a sudden"
        raise ZohoUnavailable(message)


def next_window(read_to: int, *, overlap: int, per_page: int | None = None) -> Window:
    """Return the page that reaches furthest and begins at least `overlap` items before `read_to`.

    `per_page` is the largest size. Without overlap, and at one of its multiples, that is simply the next page.
    """
    start, largest = max(0, read_to - overlap), per_page or PER_PAGE
    windows = (Window(start // size + 1, size) for size in range(largest, min(largest, _SMALLEST_PAGE) - 1, -1))
    return max(windows, key=lambda window: window.end)


class Listing:
    """One reading of the list, from wherever the last one ended."""

    def __init__(
        self,
        fetch: Callable[[Window], ListedPage],
        *,
        read_to: int,
        last: KeptPage | None,
        known_until: Frontier | None,
        expected: int,
        pace: Pace,
        is_behind: Callable[[ListedPage], bool] = lambda _page: False,
        is_by_creation: bool = False,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Read with `fetch`, which may be called from several threads.

        `last` is the page before `read_to`. `known_until`: up to where everything is known here; None: nothing is.
        `expected` items are worth asking for before it is certain that there are so many. `is_behind` tells that a page
        is the last that matters. `is_by_creation`: the list is in the order of creation, and to be read whole; then,
        where something unknown may be, that a page is the last has to be seen from a second one that brings nothing
        new. Once `goes_on` says no, nothing more is asked for.
        """
        self._fetch = fetch
        self._read_to = read_to
        self._last = last
        self._known_until = known_until
        self._expected = expected
        self._pace = pace
        self._is_behind = is_behind
        self._is_by_creation = is_by_creation
        self._goes_on = goes_on
        self._per_page = PER_PAGE
        self._takes_any_size = True
        self._is_sorted = True
        self._has_more = True
        self._is_end_claimed = False
        self._furthest = read_to
        self._steps_back = 0
        self._call_seconds = 0.0
        self._ahead: deque[tuple[Window, Future[ListedPage]]] = deque()

    def pages(self) -> Iterator[ReadPage]:
        """Yield pages up to the end of the list, or until told not to go on; the next is read while one is worked on.

        Raises:
            WorkError: whatever `fetch` raises for the page after the last one yielded.
            ZohoUnavailable: a page is shorter than it can be.
            ListUntrustworthy: Zoho does not keep to any size of pages, or its pages never meet.
        """
        executor = ThreadPoolExecutor(self._pace.calls_at_once, thread_name_prefix="page")
        try:
            yield from self._pages(executor)
        finally:
            # What is still under way is not waited for: nobody needs it.
            executor.shutdown(wait=False, cancel_futures=True)

    def _pages(self, executor: ThreadPoolExecutor) -> Iterator[ReadPage]:
        overlap = self._overlap()
        while True:
            self._ask_ahead(executor, overlap)
            if not self._ahead:
                return
            window, answer = self._ahead.popleft()
            page = answer.result()
            if self._has_other_size(window, page):
                self._take_size(window, page)
                overlap = 0
                continue
            if self._has_slipped(window, page):
                overlap = self._step_back(window)
                continue
            _require_whole(window, page, self._read_to)
            is_last = self._is_last(window, page)
            self._note(window, page)
            overlap = self._overlap()
            self._has_more = not is_last
            if not is_last:
                self._ask_ahead(executor, overlap)
            yield ReadPage(page, self._read_to, is_last)
            if is_last:
                return

    def _ask_ahead(self, executor: ThreadPoolExecutor, overlap: int) -> None:
        position = self._ahead[-1][0].end if self._ahead else self._read_to
        likely_end = self._expected if self._read_to < self._expected else self._read_to * 5 // 4
        # What is modified moves to the front of a list by modification: there, a page that was answered before the one
        # in front of it may overlap with it and yet leave a gap.
        depth = self._pace.depth(self._call_seconds) if self._is_by_creation else 1
        while len(self._ahead) < depth and self._goes_on():
            if self._ahead and position >= likely_end:
                return
            if not self._has_more:
                return
            if self._takes_any_size:
                window = next_window(position, overlap=overlap)
            else:
                window = Window(position // self._per_page + 1, self._per_page)
            self._ahead.append((window, executor.submit(self._timed_fetch, window)))
            position = window.end

    def _timed_fetch(self, window: Window) -> ListedPage:
        started = time.perf_counter()
        page = self._fetch(window)
        self._call_seconds = time.perf_counter() - started
        return page

    def _step_back(self, window: Window) -> int:
        """Return how far to reach back instead; what was asked for ahead is of no use any more."""
        self._steps_back += 1
        if self._steps_back > _MOST_STEPS_BACK:
            message = "the pages of Zoho's list do not meet: its order is not the one asked for, or it changes too fast"
            raise ListUntrustworthy(message)
        self._ahead.clear()
        reach = max(self._read_to - window.start, 0)
        # By less than a page where it is far already: the items looked for must not be jumped over.
        overlap = max(_OVERLAP, 4 * reach if reach < _SMALLEST_PAGE // 2 else reach + _SMALLEST_PAGE)
        _log.info("paging.stepped_back", page=window.page, per_page=window.per_page, overlap=overlap)
        return overlap

    def _note(self, window: Window, page: ListedPage) -> None:
        # Not the furthest position so far: if something was deleted, all that was read has moved up since.
        self._read_to = window.start + len(page.items)
        if self._read_to > self._furthest:
            self._furthest, self._steps_back = self._read_to, 0
        created = [item.created_at for item in page.items if item.created_at is not None]
        self._is_sorted = self._is_sorted and all(earlier <= later for earlier, later in pairwise(created))
        if page.items:
            self._last = kept(page)

    def _overlap(self) -> int:
        """Return how far the next page has to reach back."""
        if self._last is None or not self._last.item_ids or not self._takes_any_size:
            return 0
        return _OVERLAP if self._may_be_unknown(self._last.item_ids[-1], self._last.last_created_at) else 0

    def _may_be_unknown(self, item_id: str, created_at: datetime | None) -> bool:
        """Tell whether this item, or one beside it, may never have been read by a complete run."""
        known = self._known_until
        if known is None or known.created_at is None or created_at is None or not self._is_sorted:
            return True
        # Of items created in one second, only the very last one is certain to have been the end.
        return created_at > known.created_at or (created_at == known.created_at and item_id != known.item_id)

    def _has_slipped(self, window: Window, page: ListedPage) -> bool:
        """Tell whether something unknown may have slipped between this page and the one before."""
        if window.start == 0 or self._last is None or not self._takes_any_size:
            return False
        if window.start < self._read_to:
            known = set(self._last.item_ids)
            return not any(item.key in known for item in page.items) and not self._begins_before(self._last, page)
        # The page before said that there is more: whatever it was, it may have moved up.
        return not page.items or self._may_be_unknown(page.items[0].key, page.items[0].created_at)

    def _begins_before(self, last: KeptPage, page: ListedPage) -> bool:
        """Tell by the times of creation that a page begins before the end of the last one, all of which may be gone."""
        first = page.items[0].created_at if page.items else None
        if not self._is_by_creation or not self._is_sorted or first is None or last.last_created_at is None:
            return False
        return first < last.last_created_at

    def _is_last(self, window: Window, page: ListedPage) -> bool:
        if self._is_behind(page):
            return True
        if page.has_more:
            return False
        if page.items and not self._may_be_unknown(page.items[-1].key, page.items[-1].created_at):
            return True
        if not self._is_by_creation:
            return len(page.items) < window.per_page
        brings_nothing_new = window.start + len(page.items) <= self._read_to
        is_confirmed = self._is_end_claimed and brings_nothing_new
        self._is_end_claimed = True
        return is_confirmed

    @staticmethod
    def _has_other_size(window: Window, page: ListedPage) -> bool:
        return page.per_page not in (None, window.per_page) or len(page.items) > window.per_page

    def _take_size(self, window: Window, page: ListedPage) -> None:
        size = page.per_page or len(page.items)
        if not self._takes_any_size or not 0 < size <= PER_PAGE:
            message = f"Zoho gives pages of {size} items where {window.per_page} were asked for"
            raise ListUntrustworthy(message)
        _log.warning("paging.sizes_not_taken", asked=window.per_page, got=size)
        self._takes_any_size = False
        self._per_page = size
        self._read_to -= self._read_to % size
        self._ahead.clear()
