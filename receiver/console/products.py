"""Products: found, read, fetched anew, and taken away as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors import field_table
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection
from processors.workflows import browsing, connection, operations
from processors.workflows.browsing import ProductDetail, ProductQuery, ProductRow, ProductSort, TimelineEntry
from processors.workflows.operations import FetchedItem
from processors.zoho.items import item_id_of
from receiver.console import spreadsheets
from receiver.console.context import Page, acts, requester
from receiver.console.lists import Filter, List, Moment, column, in_operators_zone

_MOST_ENTRIES = 200
_ROWS_AT_ONCE = 1_000
_SORTS: Final[dict[str, ProductSort]] = {
    "item": "id",
    "name": "name",
    "sku": "sku",
    "price": "price",
    "stock": "stock",
    "modified": "modified",
}
_COLUMNS: Final = (
    "zoho_item_id",
    *field_table.COLUMNS,
    "zoho_last_modified_at",
    "deleted_at",
    "created_at",
    "updated_at",
)


class ProductFilter(Filter):
    """What the list of products can be asked for."""

    text: str | None = None
    state: browsing.ProductState | None = None
    out_of_stock: bool = False
    changed_since: Moment | None = None
    category: str | None = None

    def query(self) -> ProductQuery:
        """Return what the database is asked."""
        return ProductQuery(
            text=self.text,
            state=self.state,
            is_out_of_stock=self.out_of_stock,
            changed_since=in_operators_zone(self.changed_since),
            category_id=self.category,
        )


@dataclass(frozen=True, slots=True)
class ProductPage:
    """What the page of one product shows."""

    zoho_item_id: str
    product: ProductDetail | None
    timeline: list[TimelineEntry]
    zoho_url: str | None


class Products(List[ProductFilter]):
    """The list, and the page of one product."""

    key = "products"
    what = "products"
    display_name = "product"
    icon = "fa fa-box"
    pk_attr = "zoho_item_id"
    filter = ProductFilter
    list_template = "products.html"
    detail_template = "product.html"
    sortable_fields = tuple(_SORTS)
    fields_default_sort = (("item", True),)
    fields = (
        column("name", "product_name"),
        column("sku", "sku", "SKU"),
        column("price", "price"),
        column("stock", "stock"),
        column("status", "product_state"),
        column("modified", "modified", "Modified in Zoho"),
        column("item", "item_id", "Item id"),
    )

    async def find(
        self, request: Request, asked: ProductFilter, sorts: Sequence[tuple[str, str]], *, skip: int, most: int
    ) -> Sequence[ProductRow]:
        """Return a page of products, and what the filter offers besides."""
        found = await self.console.read(browsing.categories)
        request.state.shown = {"category_choices": [(each.id, each.name or each.id) for each in found]}
        name, direction = sorts[0] if sorts else ("item", "desc")
        return await self.console.read(
            browsing.find_products,
            asked.query(),
            sort=_SORTS[name],
            descending=direction == "desc",
            skip=skip,
            most=most,
        )

    async def count_up_to(self, request: Request, asked: ProductFilter, *, at_most: int) -> int:
        """Count products."""
        del request
        return await self.console.read(browsing.count_products, asked.query(), at_most=at_most)

    async def find_by_pk(self, request: Request, pk: Any) -> ProductPage | None:  # noqa: ANN401
        """Return the page of one item: it may have a past here without having a row."""
        del request
        # Rows of former releases may have ids of another form.
        item_id = item_id_of(str(pk)) or str(pk)
        if "\0" in item_id:
            return None
        return await self.console.read(_page, item_id, self.console.settings)


def _page(connected: Connection, item_id: str, settings: Settings) -> ProductPage | None:
    product = browsing.product(connected, item_id)
    timeline = browsing.timeline(connected, item_id, most=_MOST_ENTRIES)
    if product is None and not timeline:
        return None
    detail = connection.detail(connected, settings)
    zoho_url = None
    if detail.organization_id:
        # The web application's own address of an item, as browsers show it; no page of Zoho's documents it.
        host = f"https://inventory.zoho.{detail.data_center}"
        zoho_url = f"{host}/app/{detail.organization_id}#/inventory/items/{item_id}"
    return ProductPage(item_id, product, timeline, zoho_url)


class ProductActions(Page):
    """Actions on products, and the list as a table."""

    path = "/products"
    menu_label = "Products"

    @route("/{item_id}/fetch", methods=["POST"])
    @acts(then="products/detail?pk={item_id}")
    async def fetch(self, request: Request) -> None:
        """Ask Zoho for an item now, and write what it says."""
        item_id = item_id_of(request.path_params["item_id"])
        if item_id is None:
            flash(request, "That is not an item id: expected digits without a zero in front, at most 20.", "error")
            return
        fetched = await self.console.run(self._fetch, item_id, requester(request))
        if fetched.error:
            flash(request, f"Item {item_id} could not be fetched: {fetched.error}", "error")
        elif fetched.changes:
            changed = ", ".join(name.replace("_", " ") for name in fetched.changes)
            flash(request, f"Zoho's answer was applied ({fetched.outcome}): {changed}.", "success")
        else:
            flash(request, f"Zoho says the same as the mirror ({fetched.outcome}); nothing was changed.", "success")

    def _fetch(self, item_id: str, asks: Requester) -> FetchedItem:
        (fetched,) = operations.fetch_items(self.console.pool, self.console.zoho.client(), [item_id], asks)
        return fetched

    @route("/export.csv")
    async def export(self, request: Request) -> Response:
        """Return all products that the list's filter finds, as CSV."""
        asked = cast("ProductFilter", ProductFilter.of(request.query_params))
        return StreamingResponse(
            self._lines(asked.query()),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="products.csv"'},
        )

    def _lines(self, query: ProductQuery) -> Iterator[str]:
        """Yield the table in parts, each read when the one before is on its way. Runs in a thread."""
        yield spreadsheets.lines([_COLUMNS])
        after = ""
        while True:
            with self.console.pool.connection() as connected:
                rows = browsing.find_products(connected, query, after=after, most=_ROWS_AT_ONCE)
            if not rows:
                return
            yield spreadsheets.lines([getattr(row, name) for name in _COLUMNS] for row in rows)
            after = rows[-1].zoho_item_id
