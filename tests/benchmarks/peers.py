"""What most teams write today: a loop that looks each item up by an ORM, then updates or creates it.

Needs the extra `bench`. It reads the same list as the mirror and the floors, with the client and the JSON reader that
such a loop would use; each item is a transaction of its own, as after Django's `update_or_create`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

import httpx
from sqlalchemy import DateTime, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class _Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: JSONB, datetime: DateTime(timezone=True)}


class _Product(_Base):
    __tablename__ = "peer_products"

    zoho_item_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    sku: Mapped[str | None]
    description: Mapped[str | None]
    price: Mapped[Decimal | None]
    stock_quantity: Mapped[int | None]
    stock_on_hand: Mapped[Decimal | None]
    is_active: Mapped[bool]
    category_id: Mapped[str | None]
    category_name: Mapped[str | None]
    brand: Mapped[str | None]
    unit: Mapped[str | None]
    zoho_last_modified_at: Mapped[datetime | None]
    raw: Mapped[dict[str, Any]]


def row_at_a_time(stack: ExitStack, database_url: str, items_url: str, *, per_page: int) -> Callable[[], None]:
    """Return the loop, ready to run again and again on `peer_products`."""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    stack.callback(engine.dispose)
    http = stack.enter_context(httpx.Client())

    def work() -> None:
        number, has_more = 0, True
        while has_more:
            number += 1
            page = http.get(items_url, params={"page": number, "per_page": per_page}).json()
            for item in page["items"]:
                with Session(engine) as session, session.begin():
                    _update_or_create(session, item)
            has_more = page["page_context"]["has_more_page"]

    return work


def _update_or_create(session: Session, item: dict[str, Any]) -> None:
    product = session.get(_Product, item["item_id"])
    if product is None:
        product = _Product(zoho_item_id=item["item_id"])
        session.add(product)
    stock = item.get("stock_on_hand")
    product.name = item["name"]
    product.sku = item["sku"] or None
    product.description = item["description"] or None
    product.price = Decimal(str(item["rate"]))
    product.stock_on_hand = None if stock is None else Decimal(str(stock))
    product.stock_quantity = None if stock is None else int(stock)
    product.is_active = item["status"] == "active"
    product.category_id = item["category_id"] or None
    product.category_name = item["category_name"] or None
    product.brand = item["brand"] or None
    product.unit = item["unit"] or None
    product.zoho_last_modified_at = datetime.fromisoformat(item["last_modified_time"])
    product.raw = item
