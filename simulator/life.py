"""A shop at work: the edits, arrivals and departures that a catalogue sees in a day."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from random import Random

from simulator.catalogue import Catalogue, NoSuchItem
from simulator.products import ProductInventor


class Editor:
    """Makes one believable change after another; the same seed and catalogue give the same ones."""

    def __init__(self, catalogue: Catalogue, *, seed: int = 0) -> None:
        self._catalogue = catalogue
        self._random = Random(seed)
        self._inventor = ProductInventor(self._random)

    def step(self) -> str:
        """Make one change and say in a word what it was. Creations keep up with deletions.

        `missed`: another thread deleted the item first.
        """
        if not len(self._catalogue):
            return self._create()
        kinds = (self._reprice, self._count_stock, self._describe, self._sell, self._toggle)
        other_kinds = (self._rename, self._create, self._delete)
        step = self._random.choices((*kinds, *other_kinds), weights=(40, 15, 14, 16, 4, 3, 4, 4))[0]
        try:
            return step()
        except NoSuchItem:
            return "missed"

    def run(self, stop: threading.Event, *, per_second: float) -> int:
        """Make changes at a steady rate until `stop` is set; return how many."""
        started, steps = time.monotonic(), 0
        while not stop.wait(max(0.0, started + (steps + 1) / per_second - time.monotonic())):
            self.step()
            steps += 1
        return steps

    @contextmanager
    def at_work(self, *, per_second: float) -> Iterator[None]:
        """Make changes in the background for as long as the block lasts."""
        stop = threading.Event()
        work = partial(self.run, stop, per_second=per_second)
        thread = threading.Thread(target=work, name="editor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _reprice(self) -> str:
        item = self._catalogue.pick(self._random)
        factor = Decimal(self._random.randint(85, 118)).scaleb(-2)
        self._catalogue.edit(item.item_id, rate=(item.rate * factor).quantize(Decimal("0.01")))
        return "repriced"

    def _count_stock(self) -> str:
        item = self._catalogue.pick(self._random)
        if not item.track_inventory:
            return self._describe()
        self._catalogue.edit(item.item_id, stock_on_hand=self._inventor.stock())
        return "counted"

    def _describe(self) -> str:
        item = self._catalogue.pick(self._random)
        self._catalogue.edit(item.item_id, description=self._inventor.description())
        return "described"

    def _sell(self) -> str:
        item = self._catalogue.pick(self._random)
        if not item.track_inventory:
            return self._reprice()
        self._catalogue.adjust_stock(item.item_id, Decimal(self._random.choice((-3, -2, -1, -1, 24))))
        return "sold"

    def _toggle(self) -> str:
        item = self._catalogue.pick(self._random)
        self._catalogue.edit(item.item_id, status="inactive" if item.status == "active" else "active")
        return "toggled"

    def _rename(self) -> str:
        item = self._catalogue.pick(self._random)
        plain = item.name.removesuffix(" (new)")
        self._catalogue.edit(item.item_id, name=plain if plain != item.name else f"{item.name} (new)")
        return "renamed"

    def _create(self) -> str:
        name, details = self._inventor.invent()
        self._catalogue.create(name, **details)
        return "created"

    def _delete(self) -> str:
        self._catalogue.delete(self._catalogue.pick(self._random).item_id)
        return "deleted"
