"""What a page of Zoho's list does to the rows of its items.

Most items are what their rows say, and most of those are known to be, by a digest. What is left is compared column by
column, and only what differs is read whole and decided upon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import partial

from processors import logs
from processors.errors import PermanentError
from processors.store import comparison
from processors.store.comparison import Agreement, Listed
from processors.store.database import Connection
from processors.store.products import Current, Product
from processors.workflows import merging
from processors.workflows.merging import Decision, Write
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
    for item in page:
        if item.item_id is None:
            step.attempt(None, item.raw, partial(_read_whole, item), is_counted=item.key in counted)
    listed = {item.item_id: item for item in page if item.item_id is not None}
    for item_id in refused.keys() & listed.keys():
        step.keep_unusable(item_id, listed.pop(item_id).raw, refused[item_id], is_counted=item_id in counted)

    found = comparison.by_digest(connection, {item_id: item.digest for item_id, item in listed.items()})
    bodies: dict[str, Body] = {}
    for item_id in found.unlike:
        body = step.attempt(item_id, listed[item_id].raw, listed[item_id].body, is_counted=item_id in counted)
        if body is not None:
            bodies[item_id] = body
    compared = comparison.by_columns(
        connection, [Listed(i, body.content, body.modified_at) for i, body in bodies.items()]
    )

    agreeing = (listed.keys() - found.missing.keys() - found.unlike) | compared.agreeing.keys()
    step.counts.unchanged += len(agreeing & counted)
    for item_id, agreement in compared.agreeing.items():
        step.agree(agreement, listed[item_id].digest)
    for item_id, current in {**found.missing, **compared.differing}.items():
        _decide(step, listed[item_id], item_id, current, asked_at, is_counted=item_id in counted)
    return step


def _decide(
    step: Step, item: ListedItem, item_id: str, current: Current, asked_at: datetime, *, is_counted: bool
) -> None:
    def work() -> tuple[Body, Decision]:
        body = items.read_body(item.read())
        if body.notes:
            _log.warning("item.odd", item_id=item_id, warnings=list(body.notes))
        return body, merging.decide_listed(current, item_id, body, asked_at)

    worked = step.attempt(item_id, item.raw, work, is_counted=is_counted)
    if worked is None:
        return
    body, decided = worked
    step.take_down(item_id, current, decided, is_counted=is_counted)
    if isinstance(decided, Write) and _says(decided.product, body):
        step.agree(Agreement(item_id, current.revision + 1, row_version=None), item.digest)


def _says(product: Product, body: Body) -> bool:
    """Tell whether a row will agree with the list."""
    is_certain = product.deleted_at is None and product.altered_at is None
    return is_certain and (product.content, product.zoho_last_modified_at) == (body.content, body.modified_at)


def _read_whole(item: ListedItem) -> Decision:
    item.read()
    message = "Zoho lists this item in a form that cannot be read"
    raise PermanentError(message)
