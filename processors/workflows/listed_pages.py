"""What a page of Zoho's list does to the rows of its items.

Most items are what their rows say, and are known to be, by a digest. The others are read whole, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import partial

from processors import logs
from processors.errors import PermanentError
from processors.store import comparison
from processors.store.comparison import Agreement, Found
from processors.store.database import Connection
from processors.store.products import Product
from processors.workflows import merging
from processors.workflows.merging import Decision, Settled, Write
from processors.workflows.steps import Step
from processors.zoho import items
from processors.zoho.items import Body
from processors.zoho.listing import ListedItem

_log = logs.get(__name__)


def decide_page(
    connection: Connection,
    page: Sequence[ListedItem],
    known_before: frozenset[str],
    asked_at: datetime,
    refused: Mapping[str, Exception],
    _beaten: AbstractSet[str],
) -> Step:
    """Decide what a page does; what the page before it showed already is not counted again."""
    step = Step()
    counted = {item.key for item in page} - known_before
    step.counts.seen += len(counted)
    for key, item in {item.key: item for item in page if item.item_id is None}.items():
        step.attempt(None, item.raw, partial(_read_whole, item), is_counted=key in counted)
    listed = {item.item_id: item for item in page if item.item_id is not None}
    for item_id in refused.keys() & listed.keys():
        step.keep_unusable(item_id, listed.pop(item_id).raw, refused[item_id], is_counted=item_id in counted)

    unknown = comparison.find_unknown(connection, {item_id: item.digest for item_id, item in listed.items()})
    step.counts.unchanged += len((listed.keys() - unknown.keys()) & counted)
    for item_id, found in unknown.items():
        _decide(step, listed[item_id], item_id, found, asked_at, is_counted=item_id in counted)
    return step


def _decide(step: Step, item: ListedItem, item_id: str, found: Found, asked_at: datetime, *, is_counted: bool) -> None:
    """Decide what one item does, unless its row says the same; then, or once it does, that is known the next time."""

    def work() -> tuple[Body, Decision]:
        row = found.current.product
        if row is not None and _says(row, body := item.body()):
            return body, Settled("unchanged")
        body = items.read_body(item.read(), is_listed=True)
        if body.notes:
            _log.warning("item.odd", item_id=item_id, warnings=list(body.notes))
        return body, merging.decide_listed(found.current, item_id, body, asked_at)

    worked = step.attempt(item_id, item.raw, work, is_counted=is_counted)
    if worked is None:
        return
    body, decided = worked
    row = found.current.product
    written = decided.product if isinstance(decided, Write) else row
    digest = item.digest if written is not None and _says(written, body) else None
    step.take_down(item_id, found.current, decided, digest=digest, is_counted=is_counted)
    if row is None or not isinstance(decided, Settled) or found.current.stored is not None:
        return
    if _says(row, body) and found.row_version is not None and item.digest is not None:
        step.agreements.append(Agreement(item_id, item.digest, found.current.revision, found.row_version))


def _says(row: Product, body: Body) -> bool:
    """Tell whether a row says what the list says, and nothing casts doubt on it."""
    is_doubtful = row.deleted_at is not None or row.altered_at is not None
    return not is_doubtful and (row.content, row.zoho_last_modified_at) == (body.content, body.modified_at)


def _read_whole(item: ListedItem) -> Decision:
    item.read()
    message = "Zoho lists this item in a form that cannot be read"
    raise PermanentError(message)
