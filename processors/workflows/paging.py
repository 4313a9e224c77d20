"""Reads Zoho's item list page after page so that no item slips between two of them, whatever it says of its length.

The list is computed anew for every call, and a page is cut before what this login may not see is left out of it: so it
may be short, or empty, in the middle. Reading therefore goes on by positions, not by the number of items shown, and
neither a short page nor `has_more_page` is believed to be the end.

Where an item is deleted that was read already, all behind it move up by one, and what stood first on the next page is
now last on a page that was read already: no page shows it. Two things keep that from going unnoticed.

- What is known here and was shown by no page is looked at one by one afterwards (`reconciliation`). Everything up to
  the last item that the last complete run read is known here.
- Behind that the list may hold items that are not known here, and each page has to be *joined* to what was read before:
  it shows an item that was read already. Pages overlap by a few items for that. If none of those is there, the pages
  before it are read, backwards, until one shows such an item. Deletions only move items forwards, against that
  direction: what none of those pages shows is not there.

The end is proven in the same way: pages behind it, read backwards until one is joined, bring nothing new. `_proof` says
how many.

A page is addressed by its number and its size, so pages that overlap are a little smaller than the largest: the fifth
page of 196 begins within the fourth of 197. Should Zoho not take such sizes (that is not documented), pages of the size
it takes are read edge to edge.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeAlias

from processors import logs
from processors.errors import ListUntrustworthy, ZohoUnavailable
from processors.store.runs import KeptPage
from processors.zoho.listing import ListedPage

PER_PAGE = 200
"""The largest page that Zoho gives."""

_OVERLAP = 5
# So often the reading steps back before it gets any further; then it is given up.
_MOST_STEPS_BACK = 12
# So often two pages that do not fit together are asked for anew.
_MOST_MISFITS = 3
# So many pages behind the last item are looked at where the list is not trusted, and the most where they say that there
# is more.
_BEHIND = 3
_MOST_BEHIND = 12
# A run that misses no more known items than this is not surprised: some are deleted every day.
_FEW = 10
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


_Read: TypeAlias = tuple[Window, ListedPage]


class _AskAgainError(Exception):
    """What was answered is of no use: the size of pages is another one, or two pages do not fit together."""


def kept(page: ListedPage) -> KeptPage:
    """Return what is kept of a page."""
    return KeptPage([item.key for item in page.items], page.items[-1].created_at if page.items else None)


def next_window(read_to: int, *, overlap: int, per_page: int | None = None) -> Window:
    """Return the page that reaches furthest and begins at least `overlap` items before `read_to`.

    `per_page` is the largest size. Without overlap, and at one of its multiples, that is simply the next page.
    """
    start, largest = max(0, read_to - overlap), per_page or PER_PAGE
    windows = (Window(start // size + 1, size) for size in range(largest, min(largest, _SMALLEST_PAGE) - 1, -1))
    return max(windows, key=lambda window: window.end)


def _window_before(start: int) -> Window:
    """Return the page that reaches back furthest from `start`, and overlaps with what begins there."""
    last = start + _OVERLAP - 1
    sizes = range(PER_PAGE, min(PER_PAGE, _SMALLEST_PAGE) - 1, -1)
    return min((Window(last // size + 1, size) for size in sizes), key=lambda window: window.start)


class Listing:
    """One reading of the list, from wherever the last one ended."""

    def __init__(  # noqa: PLR0913 - what is known of the run, each named where it is given
        self,
        fetch: Callable[[Window], ListedPage],
        *,
        read_to: int,
        last: KeptPage | None,
        known_until: Frontier | None,
        expected: int,
        pace: Pace,
        shown: int = 0,
        is_odd: bool = False,
        is_behind: Callable[[ListedPage], bool] = lambda _page: False,
        is_by_creation: bool = False,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Read with `fetch`, which may be called from several threads.

        `last` is the last page before `read_to` that showed anything; `shown`, how many items all of them showed.
        `known_until`: up to where everything is known here; None: nothing is. `expected` items are known to exist.
        `is_odd`: the reading before found the list at odds with itself or with what exists; then pages that do not fit
        together are taken as they are. `is_behind` tells that a page is the last that matters. `is_by_creation`: the
        list is in the order of creation, and to be read whole. Once `goes_on` says no, nothing more is asked for.
        """
        self._fetch = fetch
        self._read_to = read_to
        self._last = last
        self._known_until = known_until
        self._expected = expected
        self._pace = pace
        self._shown = shown
        self._is_odd = is_odd
        self._is_behind = is_behind
        self._is_by_creation = is_by_creation
        self._goes_on = goes_on
        self._per_page = PER_PAGE
        self._takes_any_size = True
        self._is_sorted = True
        self._is_trusted = True
        self._was_short = False
        self._is_known_end_shown = False
        self._shown_to = read_to
        self._furthest = read_to
        self._steps_back = 0
        self._back_by = 0
        self._misfits = 0
        self._call_seconds = 0.0
        self._ahead: deque[tuple[Window, Future[ListedPage]]] = deque()

    def pages(self) -> Iterator[ReadPage]:
        """Yield pages up to the end of the list, or until told not to go on; the next is read while one is worked on.

        Raises:
            WorkError: whatever `fetch` raises for the page after the last one yielded.
            ZohoUnavailable: the list is empty all of a sudden.
            ListUntrustworthy: Zoho does not keep to any size of pages, or its pages never meet.
        """
        executor = ThreadPoolExecutor(self._pace.calls_at_once, thread_name_prefix="page")
        try:
            reading = self._by_creation(executor) if self._is_by_creation else self._by_modification(executor)
            yield from reading
        finally:
            # What is still under way is not waited for: nobody needs it.
            executor.shutdown(wait=False, cancel_futures=True)

    # By creation: to be read whole

    def _by_creation(self, executor: ThreadPoolExecutor) -> Iterator[ReadPage]:
        while True:
            if not self._ahead:
                self._ask_ahead(executor)
            if not self._ahead:
                return
            try:
                is_done = yield from self._next(executor)
            except _AskAgainError:
                continue
            if is_done:
                return

    def _next(self, executor: ThreadPoolExecutor) -> Generator[ReadPage, None, bool]:
        """Yield the pages that the next answer leads to; return whether there are no more to be read now."""
        window, page = self._answer()
        if not page.items and self._is_amid_known(window):
            # What is known should be here. It may be hidden, as well as left out by mistake: asked again once.
            window, page = self._read(executor, window)
        joined = self._joined(executor, window, page) if page.items else [(window, page)]
        if self._is_known_end(page):
            yield from self._accept(joined, is_end=True)
            return True
        may_be_over = self._may_be_over(joined)
        is_to_be_proven = may_be_over and not self._ahead
        if self._new(joined) or not is_to_be_proven:
            accepted = self._accept(joined)
            if not may_be_over:
                self._ask_ahead(executor)
            yield from accepted
        if not is_to_be_proven:
            return False
        if not self._goes_on():
            return True
        behind, is_end = self._look_behind(executor, page)
        # Of pages that bring nothing new, only the one that shows the last items is worth keeping.
        yield from self._accept(behind[:1] if is_end else behind, is_end=is_end)
        return is_end

    def _is_amid_known(self, window: Window) -> bool:
        return window.end < self._expected and self._known_until is not None and self._overlap() == 0

    def _answer(self) -> _Read:
        window, answer = self._ahead.popleft()
        page = answer.result()
        self._require_size(window, page)
        return window, page

    def _read(self, executor: ThreadPoolExecutor, window: Window) -> _Read:
        page = executor.submit(self._timed_fetch, window).result()
        self._require_size(window, page)
        return window, page

    def _joined(self, executor: ThreadPoolExecutor, window: Window, page: ListedPage) -> list[_Read]:
        """Return the page with those before it, in order, the first of which goes on from what was read already."""
        joined = [(window, page)]
        while not self._is_joined(*joined[0]):
            self._ahead.clear()
            if joined[0][0].start == 0:
                if self._last is not None and not any(page.items for _, page in joined):
                    message = "Zoho's list is empty all of a sudden"
                    raise ZohoUnavailable(message)
                break
            self._count_step_back(joined[0][0])
            joined.insert(0, self._read(executor, _window_before(joined[0][0].start)))
            self._require_fit(*joined[:2])
        return joined

    def _require_fit(self, one: _Read, other: _Read) -> None:
        """Find two pages that overlap and show nothing in common, though one of them hides nothing.

        Raises:
            _AskAgainError: they do; a deletion may have come between them, or what they show is not what was asked for.
            ListUntrustworthy: they do again and again.
        """
        (window, page), (_, next_page) = one, other
        is_one_full = len(page.items) == window.per_page or len(next_page.items) == other[0].per_page
        if self._takes_any_size and is_one_full and not {i.key for i in page.items} & {i.key for i in next_page.items}:
            self._misfits += 1
            if self._misfits < _MOST_MISFITS:
                self._ahead.clear()
                raise _AskAgainError
            if not self._is_odd:
                message = (
                    f"Zoho's pages {window.page} (of {window.per_page}) and {other[0].page} (of {other[0].per_page}) "
                    "overlap, and yet show no item in common: what is between or behind them cannot be told"
                )
                raise ListUntrustworthy(message)

    def _is_joined(self, window: Window, page: ListedPage) -> bool:
        """Tell whether a page shows something that was read already, or that is known here and so has not to be."""
        if not self._takes_any_size:
            return True
        if not page.items:
            return False
        if window.start == 0 or not self._may_be_unknown(page.items[0].key, page.items[0].created_at):
            return True
        return self._shows_read(page) or (self._last is not None and self._begins_before(self._last, page))

    def _shows_read(self, page: ListedPage) -> bool:
        read = set(self._last.item_ids) if self._last else set()
        return any(item.key in read for item in page.items)

    def _may_be_over(self, joined: list[_Read]) -> bool:
        """Tell whether the list may end with these pages, so that it is worth a look behind them."""
        window, page = joined[-1]
        if window.end < self._expected:
            return False
        return not page.has_more or not self._new(joined)

    def _is_known_end(self, page: ListedPage) -> bool:
        """Tell whether a page that claims to be the last ends with the last known item, or all that are known."""
        known = self._known_until
        if page.has_more or known is None:
            return False
        if not page.items:
            return self._shown == self._expected == 0
        last = page.items[-1]
        if self._may_be_unknown(last.key, last.created_at):
            return False
        read = set(self._last.item_ids) if self._last else set()
        shown = self._shown + sum(item.key not in read for item in page.items)
        return last.key == known.item_id or shown >= self._expected

    def _look_behind(self, executor: ThreadPoolExecutor, last: ListedPage) -> tuple[list[_Read], bool]:
        """Read pages behind what seems to be the end, the furthest first; return them, and whether it is the end."""
        behind, most = self._proof(last), min(_MOST_BEHIND, self._most_at_once)
        while True:
            windows: list[Window] = []
            position = self._shown_to
            for _ in range(behind):
                windows.append(self._window_at(position, overlap=_OVERLAP))
                position = windows[-1].end
            pages: list[_Read] = []
            for window in reversed(windows):
                pages.insert(0, self._read(executor, window))
                if pages[1:]:
                    self._require_fit(*pages[:2])
                if self._takes_any_size and self._shows_read(pages[0][1]):
                    break
            furthest = pages[-1][1]
            pages = [*self._joined(executor, *pages[0]), *pages[1:]]
            if self._new(pages):
                while not pages[-1][1].items:
                    pages.pop()
                return pages, False
            if not furthest.has_more or self._is_known_end_shown or behind == most:
                return pages, True
            behind = most

    def _proof(self, last: ListedPage) -> int:
        """Return how many pages that bring nothing new prove the end.

        One, where the list has kept its word and what is known was shown: what was hidden would be missing. Some, where
        nothing tells what ought to be there, or the list has been wrong about its length already.
        """
        is_all_shown = self._is_known_end_shown or (
            self._is_trusted and self._known_until is not None and self._expected - self._shown <= _FEW
        )
        return 1 if is_all_shown and not last.has_more else min(_BEHIND, self._most_at_once)

    @property
    def _most_at_once(self) -> int:
        # They are read in one go: a small quota must be enough for them.
        return max(1, self._pace.calls_per_minute // 4)

    def _new(self, joined: list[_Read]) -> list[str]:
        """Return what these pages show behind all that was read."""
        read = set(self._last.item_ids) if self._last else set()
        first = [item.key for item in joined[0][1].items]
        behind = max((position for position, key in enumerate(first) if key in read), default=-1) + 1
        return [*first[behind:], *(item.key for _, page in joined[1:] for item in page.items if item.key not in read)]

    def _accept(self, joined: list[_Read], *, is_end: bool = False) -> list[ReadPage]:
        """Note that pages were read, and return them."""
        accepted = []
        for number, (window, page) in enumerate(joined, start=1):
            is_last = is_end and number == len(joined)
            self._note(window, page, is_last=is_last)
            accepted.append(ReadPage(page, self._read_to, is_last))
        return accepted

    # By modification, the latest first: to be read as far as matters

    def _by_modification(self, executor: ThreadPoolExecutor) -> Iterator[ReadPage]:
        while True:
            self._ask_ahead(executor)
            if not self._ahead:
                return
            try:
                window, page = self._answer()
            except _AskAgainError:
                continue
            if self._has_slipped(window, page):
                self._step_back(window)
                continue
            is_last = self._is_last(window, page)
            self._note(window, page, is_last=is_last)
            if not is_last:
                self._ask_ahead(executor)
            yield ReadPage(page, self._read_to, is_last)
            if is_last:
                return

    def _has_slipped(self, window: Window, page: ListedPage) -> bool:
        """Tell whether something may have slipped between this page and the one before."""
        if window.start == 0 or self._last is None or not self._takes_any_size or window.start >= self._read_to:
            return False
        return not self._shows_read(page)

    def _step_back(self, window: Window) -> None:
        """Reach back further; what was asked for ahead is of no use any more."""
        self._count_step_back(window)
        self._ahead.clear()
        reach = max(self._read_to - window.start, 0)
        # By less than a page where it is far already: the items looked for must not be jumped over.
        self._back_by = max(_OVERLAP, 4 * reach if reach < _SMALLEST_PAGE // 2 else reach + _SMALLEST_PAGE)

    def _is_last(self, window: Window, page: ListedPage) -> bool:
        if self._is_behind(page):
            return True
        if not page.has_more and len(page.items) < window.per_page:
            return True
        # Whatever it says of more: it shows nothing behind what was read, where that would be.
        shows_nothing = window.start > 0 and window.start + len(page.items) <= self._read_to < window.end
        return shows_nothing and len(page.items) < window.per_page

    # Both

    def _ask_ahead(self, executor: ThreadPoolExecutor) -> None:
        overlap = max(self._overlap(), self._back_by)
        position = self._ahead[-1][0].end if self._ahead else self._read_to
        likely_end = self._expected if self._read_to < self._expected else self._read_to * 5 // 4
        # What is modified moves to the front of a list by modification: there, a page that was answered before the one
        # in front of it may overlap with it and yet leave a gap.
        depth = self._pace.depth(self._call_seconds) if self._is_by_creation else 1
        while len(self._ahead) < depth and self._goes_on():
            if self._ahead and position >= likely_end:
                return
            window = self._window_at(position, overlap=overlap)
            self._ahead.append((window, executor.submit(self._timed_fetch, window)))
            position = window.end

    def _window_at(self, position: int, *, overlap: int) -> Window:
        if self._takes_any_size:
            return next_window(position, overlap=overlap)
        return Window(position // self._per_page + 1, self._per_page)

    def _timed_fetch(self, window: Window) -> ListedPage:
        started = time.perf_counter()
        page = self._fetch(window)
        self._call_seconds = time.perf_counter() - started
        return page

    def _count_step_back(self, window: Window) -> None:
        self._steps_back += 1
        # A stretch that shows nothing is read back once; further than that, the pages do not fit together.
        if self._steps_back > _MOST_STEPS_BACK + (2 * self._furthest // PER_PAGE if self._is_by_creation else 0):
            message = "the pages of Zoho's list do not meet: its order is not the one asked for, or it changes too fast"
            raise ListUntrustworthy(message)
        _log.info("paging.stepped_back", page=window.page, per_page=window.per_page)

    def _note(self, window: Window, page: ListedPage, *, is_last: bool) -> None:
        new = self._new([(window, page)])
        self._require_other_items(window, page, new)
        if new and (self._was_short or not self._is_trusted):
            self._is_trusted = False
        self._was_short = not is_last and (not page.has_more or len(page.items) < window.per_page)
        # Not the furthest position so far: if something was deleted, all that was read has moved up since.
        self._read_to = window.start + len(page.items) if is_last else self._reach(window, page, new)
        self._back_by = self._misfits = 0
        if new:
            self._shown_to = window.start + len(page.items) if self._takes_any_size else window.end
        if self._read_to > self._furthest:
            self._furthest = self._read_to
            self._steps_back = self._steps_back if self._is_by_creation else 0
        self._shown += len(new)
        created = [item.created_at for item in page.items if item.created_at is not None]
        self._is_sorted = self._is_sorted and all(earlier <= later for earlier, later in pairwise(created))
        known = self._known_until
        if known is not None and known.item_id is not None:
            self._is_known_end_shown |= any(item.key == known.item_id for item in page.items)
        if not self._is_by_creation and page.has_more and 2 * len(page.items) < window.per_page:
            # The next page need not show any of these, and nothing else joins it in this order.
            self._last = None
        elif page.items:
            self._last = kept(page)

    def _reach(self, window: Window, page: ListedPage, new: list[str]) -> int:
        """Return the position up to which a page proves the list to be read, as far as pages are to overlap with it.

        Where the items shown stand on a short page is not known; but the last of them is no nearer to the front than
        their number says. Going on from there, the next page shows it too. On a page that shows little, that would be a
        small step, and the next one is joined to it backwards where it has to be.
        """
        is_half_shown = 2 * len(page.items) >= window.per_page
        if not self._is_by_creation and self._takes_any_size and is_half_shown:
            return window.start + len(page.items)
        if not self._takes_any_size or not new:
            return window.end
        if not page.has_more or (is_half_shown and self._may_be_unknown(page.items[-1].key, page.items[-1].created_at)):
            return window.start + len(page.items)
        return window.end

    def _require_other_items(self, window: Window, page: ListedPage, new: list[str]) -> None:
        """Find a list that gives the same page whichever is asked for.

        Raises:
            ListUntrustworthy: it does.
        """
        if new or self._last is None or window.start < self._furthest - PER_PAGE:
            return
        read = set(self._last.item_ids)
        again = sum(item.key in read for item in page.items)
        if len(page.items) == again == len(read) and window.start >= self._read_to - _OVERLAP and again > _FEW:
            message = f"Zoho's page {window.page} shows the same {again} items as the page before it"
            raise ListUntrustworthy(message)

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

    def _begins_before(self, last: KeptPage, page: ListedPage) -> bool:
        """Tell by the times of creation that a page begins before the end of the last one, all of which may be gone."""
        first = page.items[0].created_at if page.items else None
        if not self._is_sorted or first is None or last.last_created_at is None:
            return False
        return first < last.last_created_at

    def _require_size(self, window: Window, page: ListedPage) -> None:
        """Go over to the size of pages that Zoho takes, if that is another one.

        Where it does not tell, a short page may be one of another size: pages of as many items are right in any case.

        Raises:
            _AskAgainError: it is another one, and the page is to be asked for again.
            ListUntrustworthy: it is no size, or changes again.
        """
        size = page.per_page or len(page.items)
        is_untold = page.per_page is None and self._takes_any_size and 0 < size < window.per_page
        is_other = page.per_page not in (None, window.per_page) or len(page.items) > window.per_page
        if is_untold and (page.has_more or (self._is_by_creation and not self._is_known_end(page))):
            if 4 * size < window.per_page and page.has_more:
                message = f"Zoho shows {size} of {window.per_page} items, says that there are more, and not how many"
                raise ListUntrustworthy(message)
            is_other = 4 * size >= window.per_page
        if not is_other:
            return
        if not self._takes_any_size or not 0 < size <= PER_PAGE:
            message = f"Zoho gives pages of {size} items where {window.per_page} were asked for"
            raise ListUntrustworthy(message)
        _log.warning("paging.sizes_not_taken", asked=window.per_page, got=size)
        self._takes_any_size = False
        self._per_page = size
        self._read_to -= self._read_to % size
        # What is read again now is no page that Zoho repeats.
        self._last, self._shown = None, min(self._shown, self._read_to)
        self._shown_to = self._read_to
        self._ahead.clear()
        raise _AskAgainError
