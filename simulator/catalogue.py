"""The simulated catalogue: edited from tests and demo threads, read by the server's thread."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from random import Random
from threading import RLock
from typing import Final, Self, TypeAlias, Unpack

from simulator.clock import Clock, system_clock
from simulator.identity import Organization
from simulator.items import Item, ItemChanges, ItemDetails
from simulator.products import ProductInventor

_FIRST_ITEM_ID: Final = 4_100_000_000_000_100_007
_ITEM_ID_STEP: Final = 13
_AFTER_EVERY_ID: Final = "~"

_SortValue: TypeAlias = str | Decimal | datetime
_SortEntry: TypeAlias = tuple[_SortValue, str]


class NoSuchItem(KeyError):
    """The id names no item, or one that was deleted."""


class ItemEvent(StrEnum):
    """What a workflow rule can be about."""

    CREATED = "created"
    EDITED = "edited"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to an item. `webhook` says whether workflow rules notice it."""

    event: ItemEvent
    item: Item
    webhook: bool


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which items a list call asks for. `modified_after` keeps its own instant only if `inclusive`."""

    page: int = 1
    per_page: int = 200
    sort_column: str = "name"
    descending: bool = False
    modified_after: datetime | None = None
    inclusive: bool = False
    matches: Callable[[Item], bool] | None = None


SORT_KEYS: Final[Mapping[str, Callable[[Item], _SortValue]]] = {
    "name": lambda item: item.name.casefold(),
    "sku": lambda item: item.sku.casefold(),
    "rate": lambda item: item.rate,
    "purchase_rate": lambda item: item.purchase_rate,
    "created_time": lambda item: item.created_time,
    "last_modified_time": lambda item: item.last_modified_time,
    "reorder_level": lambda item: item.reorder_level or Decimal(0),
    "stock_on_hand": lambda item: item.stock_on_hand if item.track_inventory else Decimal(0),
}


class _Order:
    """The ids in the order of one sort column, ties by id. Kept sorted change by change.

    Sorting anew for every page would cost a 100,000-item sweep minutes while items are edited.
    """

    def __init__(self, key: Callable[[Item], _SortValue], items: Iterable[Item]) -> None:
        self._key = key
        self.entries: list[_SortEntry] = sorted((key(item), item.item_id) for item in items)

    def move(self, old: Item | None, new: Item | None) -> None:
        if old is not None:
            del self.entries[bisect_left(self.entries, (self._key(old), old.item_id))]
        if new is not None:
            insort(self.entries, (self._key(new), new.item_id))


class Catalogue:
    """Items by id, with Zoho's habits: times to the second, ids as strings, deletes that leave nothing.

    Two edits within one second of `clock` share a `last_modified_time`. Safe to use from any thread.
    """

    def __init__(self, *, clock: Clock = system_clock, organization: Organization | None = None) -> None:
        self.organization = organization or Organization()
        self.clock = clock
        self._lock = RLock()
        self._items: dict[str, Item] = {}
        self._deleted: dict[str, Item] = {}
        self._orders: dict[str, _Order] = {}
        self._listeners: list[Callable[[Change], None]] = []
        self._next_id = _FIRST_ITEM_ID

    @classmethod
    def generate(
        cls,
        count: int,
        *,
        seed: int = 1,
        clock: Clock = system_clock,
        organization: Organization | None = None,
    ) -> Self:
        """Fill a catalogue with believable products, created over the last two years.

        Now and then many are created in the same second, as an import does.
        """
        catalogue = cls(clock=clock, organization=organization)
        random = Random(seed)
        inventor = ProductInventor(random)
        now = catalogue._now()
        created = now - timedelta(days=730)
        pace_seconds = 730 * 86_400 / (count + 1)
        left_in_import = 0
        for _ in range(count):
            if left_in_import:
                left_in_import -= 1
            else:
                created = min(now, created + timedelta(seconds=int(random.uniform(0, 2 * pace_seconds))))
                left_in_import = random.randint(10, 60) if random.random() < 0.01 else 0
            is_edited = random.random() < 0.5
            modified = created + (now - created) * random.random() if is_edited else created
            name, details = inventor.invent()
            catalogue._put(
                None,
                Item(
                    item_id=catalogue._new_id(),
                    name=name,
                    created_time=created,
                    last_modified_time=modified.replace(microsecond=0),
                    **details,
                ),
            )
        return catalogue

    def __len__(self) -> int:
        """Count the items that are not deleted."""
        return len(self._items)

    def __contains__(self, item_id: object) -> bool:
        """Tell whether the id names an item that is not deleted."""
        return item_id in self._items

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after each change, in the thread that made it."""
        self._listeners.append(listener)

    def create(self, name: str, *, webhook: bool = True, **details: Unpack[ItemDetails]) -> Item:
        """Add an item under a new id."""
        with self._lock:
            now = self._now()
            item = Item(
                item_id=self._new_id(),
                name=name,
                created_time=now,
                last_modified_time=now,
                **details,
            )
            self._put(None, item)
        self._tell(ItemEvent.CREATED, item, webhook=webhook)
        return item

    def edit(self, item_id: str, *, webhook: bool = True, **changes: Unpack[ItemChanges]) -> Item:
        """Change an item and move its `last_modified_time`, even where the values stay the same.

        Raises:
            NoSuchItem: the id is unknown or deleted.
        """
        with self._lock:
            old = self.get(item_id)
            item = replace(old, **changes, last_modified_time=self._now())
            self._put(old, item)
        self._tell(ItemEvent.EDITED, item, webhook=webhook)
        return item

    def adjust_stock(self, item_id: str, delta: Decimal, *, webhook: bool = False) -> Item:
        """Move stock, as a sale or a delivery does: a new `last_modified_time`, but no item webhook.

        Raises:
            NoSuchItem: the id is unknown or deleted.
        """
        with self._lock:
            return self.edit(item_id, webhook=webhook, stock_on_hand=self.get(item_id).stock_on_hand + delta)

    def delete(self, item_id: str, *, webhook: bool = True) -> Item:
        """Remove an item and return what it was.

        Raises:
            NoSuchItem: the id is unknown or deleted already.
        """
        with self._lock:
            item = self.get(item_id)
            self._put(item, None)
            self._deleted[item_id] = item
        self._tell(ItemEvent.DELETED, item, webhook=webhook)
        return item

    def restore(self, item_id: str, *, webhook: bool = True) -> Item:
        """Bring a deleted item back under its id, modified now; rules see it as created.

        Raises:
            NoSuchItem: the id is not that of a deleted item.
        """
        with self._lock:
            deleted = self._deleted.pop(item_id, None)
            if deleted is None:
                raise NoSuchItem(item_id)
            item = replace(deleted, last_modified_time=self._now())
            self._put(None, item)
        self._tell(ItemEvent.CREATED, item, webhook=webhook)
        return item

    def get(self, item_id: str) -> Item:
        """Look an item up.

        Raises:
            NoSuchItem: the id is unknown or deleted.
        """
        try:
            return self._items[item_id]
        except KeyError:
            raise NoSuchItem(item_id) from None

    def all(self) -> list[Item]:
        """Return every item, in no promised order."""
        with self._lock:
            return list(self._items.values())

    def deleted_ids(self) -> list[str]:
        """Return the ids that were deleted and not restored, oldest first."""
        with self._lock:
            return list(self._deleted)

    def pick(self, random: Random) -> Item:
        """Choose any item.

        Raises:
            NoSuchItem: the catalogue is empty.
        """
        with self._lock:
            entries = self._order("created_time").entries
            if not entries:
                raise NoSuchItem("the catalogue is empty")
            return self._items[random.choice(entries)[1]]

    def page(self, query: PageQuery) -> tuple[list[Item], bool]:
        """Return one page, computed now, and whether there are more."""
        with self._lock:
            entries = self._order(query.sort_column).entries
            low, matches = 0, query.matches
            if query.modified_after is not None:
                if query.sort_column == "last_modified_time":
                    low = self._first_after(entries, query.modified_after, inclusive=query.inclusive)
                else:
                    matches = _modified_after(query.modified_after, query.matches, inclusive=query.inclusive)
            positions = range(low, len(entries))
            if query.descending:
                positions = positions[::-1]
            start, stop = (query.page - 1) * query.per_page, query.page * query.per_page + 1
            if matches is None:
                found = [self._items[entries[position][1]] for position in positions[start:stop]]
            else:
                in_order = (self._items[entries[position][1]] for position in positions)
                found = list(islice(filter(matches, in_order), start, stop))
        return found[: query.per_page], len(found) > query.per_page

    def _now(self) -> datetime:
        return self.clock().astimezone(self.organization.time_zone).replace(microsecond=0)

    def _new_id(self) -> str:
        self._next_id += _ITEM_ID_STEP
        return str(self._next_id)

    def _put(self, old: Item | None, new: Item | None) -> None:
        if new is not None:
            self._items[new.item_id] = new
        elif old is not None:
            del self._items[old.item_id]
        for order in self._orders.values():
            order.move(old, new)

    def _order(self, sort_column: str) -> _Order:
        if sort_column not in self._orders:
            self._orders[sort_column] = _Order(SORT_KEYS[sort_column], self._items.values())
        return self._orders[sort_column]

    def _tell(self, event: ItemEvent, item: Item, *, webhook: bool) -> None:
        for listener in self._listeners:
            listener(Change(event, item, webhook))

    @staticmethod
    def _first_after(entries: list[_SortEntry], moment: datetime, *, inclusive: bool) -> int:
        if inclusive:
            return bisect_left(entries, (moment, ""))
        return bisect_right(entries, (moment, _AFTER_EVERY_ID))


def _modified_after(
    moment: datetime,
    matches: Callable[[Item], bool] | None,
    *,
    inclusive: bool,
) -> Callable[[Item], bool]:
    def is_wanted(item: Item) -> bool:
        is_after = item.last_modified_time > moment
        if not (is_after or (inclusive and item.last_modified_time == moment)):
            return False
        return matches is None or matches(item)

    return is_wanted
