"""Products and their changes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import Field

from processors.store import feed
from processors.store.products import Cause, Source
from processors.workflows import browsing, operations
from processors.workflows.browsing import ProductQuery, ProductState
from processors.workflows.merging import Outcome
from receiver.api.problems import NotFound
from receiver.api.shapes import (
    DEFAULT_LIMIT,
    Amount,
    Answer,
    Asked,
    At,
    ChangedColumns,
    ChangeId,
    IdCursor,
    IdText,
    ItemCursor,
    ItemId,
    Json,
    Limit,
    Moment,
    Page,
    Text,
    page_of,
)
from receiver.api.shared import By, Mirror

PathItemId = Annotated[ItemId, Path(description="Zoho's id of the item.")]


class ProductsAsked(Asked):
    """Which products; what is left out does not matter."""

    text: Text | None = Field(None, description="An item id, a SKU, or a part of the name or the SKU, in any case.")
    state: ProductState | None = Field(None, description="`live`: active or inactive.")
    out_of_stock: bool = Field(default=False, description="Only live ones whose stock is tracked and used up.")
    changed_since: Moment | None = Field(None, description="Written here at this time or later.")
    category_id: Text | None = None
    limit: Limit = DEFAULT_LIMIT
    cursor: ItemCursor | None = None


class Product(Answer):
    """A row of the mirror."""

    zoho_item_id: str
    name: str
    sku: str | None
    description: str | None
    price: Amount | None
    stock_quantity: int | None = Field(description="Whole units; null where Zoho does not track stock.")
    stock_on_hand: Amount | None = Field(description="Exact.")
    available_stock: Amount | None = Field(description="Of the accounting stock, what is not committed.")
    actual_available_stock: Amount | None = Field(description="Of the physical stock, what is not committed.")
    is_active: bool
    category_id: str | None
    category_name: str | None
    brand: str | None
    unit: str | None
    group_id: str | None = Field(description="Of the item group whose variant it is.")
    group_name: str | None
    zoho_last_modified_at: At | None
    deleted_at: At | None = Field(description="Zoho does not have it any more, since then.")
    altered_at: At | None = Field(description="Written by something other than the mirror, and not confirmed since.")
    created_at: At
    updated_at: At


class ProductDetail(Product):
    """A row with everything that Zoho said of the item."""

    raw: Json = Field(description="As Zoho wrote it; numbers with a fraction, and very large ones, are texts.")


class Change(Answer):
    """One applied change."""

    id: IdText
    item_id: str
    changed_at: At
    source: Source
    event_id: IdText | None
    run_id: IdText | None
    cause: Cause | None = Field(description="Of a run's repair: why no webhook had made it.")
    zoho_modified_at: At | None
    changes: ChangedColumns


class ChangesAsked(Asked):
    """Which part of an item's history."""

    limit: Limit = DEFAULT_LIMIT
    cursor: IdCursor | None = None


class FeedAsked(Asked):
    """From where to go on."""

    after: ChangeId = Field(
        0, description="The id of the last change that was read, or `next_cursor`; 0: from the beginning."
    )
    limit: Limit = DEFAULT_LIMIT


class Fetched(Answer):
    """What came of asking Zoho for an item."""

    item_id: str
    outcome: Outcome
    changes: ChangedColumns


def find(mirror: Mirror, asked: Annotated[ProductsAsked, Query()]) -> Page[Product]:
    """List products, by item id."""
    query = ProductQuery(
        text=asked.text,
        state=asked.state,
        is_out_of_stock=asked.out_of_stock,
        changed_since=asked.changed_since,
        category_id=asked.category_id,
    )
    with mirror.reading() as connection:
        found = browsing.find_products(connection, query, after=asked.cursor, most=asked.limit + 1)
    return page_of(found, asked.limit, Product.model_validate, lambda row: f"after-{row.zoho_item_id}")


def show(mirror: Mirror, item_id: PathItemId) -> ProductDetail:
    """Show a product with everything that Zoho said of it."""
    with mirror.reading() as connection:
        product = browsing.product(connection, item_id)
    if product is None:
        raise _missing(item_id)
    return ProductDetail.model_validate(product)


def changes(mirror: Mirror, item_id: PathItemId, asked: Annotated[ChangesAsked, Query()]) -> Page[Change]:
    """List what was changed of a product, the newest first."""
    with mirror.reading() as connection:
        found = browsing.find_changes(connection, item_id=item_id, before=asked.cursor, most=asked.limit + 1)
        if not found and browsing.product(connection, item_id) is None:
            raise _missing(item_id)
    return page_of(found, asked.limit, Change.model_validate, lambda change: f"before-{change.id}")


def fetch(mirror: Mirror, by: By, item_id: PathItemId) -> Fetched:
    """Ask Zoho for an item now, and write what it says."""
    mirror.require_organisation()
    fetched = operations.fetch_item(mirror.pool, mirror.zoho.client(), item_id, by)
    return Fetched.model_validate(fetched)


def follow(mirror: Mirror, asked: Annotated[FeedAsked, Query()]) -> Page[Change]:
    """Follow all changes in the order in which they were applied: none is left out between one call and the next."""
    with mirror.reading() as connection:
        found = feed.changes_after(connection, asked.after, most=asked.limit + 1)
    return page_of(found, asked.limit, Change.model_validate, lambda change: str(change.id))


def _missing(item_id: str) -> NotFound:
    return NotFound(f"There is no product {item_id} here.")
