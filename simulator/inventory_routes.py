"""The part of Zoho Inventory's API that a mirror reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulator import identity, shapes
from simulator.catalogue import SORT_KEYS, NoSuchItem, PageQuery
from simulator.gate import API_PREFIX, faults_of, zoho_of
from simulator.items import Item
from simulator.limits import Refusal
from simulator.responses import refused, success
from simulator.wire import Json, parse_zoho_time

_MOST_PER_PAGE: Final = 200
_ITEM_ID: Final = re.compile(r"\d{1,19}")
_NO_SUCH_ITEM: Final = Refusal(404, 1002, "Item does not exist.")

_FILTERS: Final[Mapping[str, Callable[[Item], bool] | None]] = {
    "Status.All": None,
    "Status.Active": lambda item: item.status == "active",
    "Status.Inactive": lambda item: item.status == "inactive",
    "Status.Lowstock": lambda item: (
        item.track_inventory and item.reorder_level is not None and item.stock_on_hand <= item.reorder_level
    ),
    "Status.Uncategorized": lambda item: not item.category_id,
    "ItemType.All": None,
    "ItemType.Sales": lambda item: item.item_type == "sales",
    "ItemType.Purchases": lambda item: item.item_type == "purchases",
    "ItemType.SalesAndPurchases": lambda item: item.item_type == "sales_and_purchases",
    "ItemType.Inventory": lambda item: item.item_type == "inventory",
    "ItemType.NonInventory": lambda item: item.item_type != "inventory" and item.product_type == "goods",
    "ItemType.Service": lambda item: item.product_type == "service",
}


class _InvalidValue(ValueError):
    def __init__(self, parameter: str) -> None:
        super().__init__(f"Invalid value passed for {parameter}")


async def _list_items(request: Request) -> Response:
    zoho, faults = zoho_of(request), faults_of(request)
    parameters = request.query_params
    try:
        filter_by = _choice(parameters.get("filter_by", "Status.All"), _FILTERS, "filter_by")
        modified_after = _time(parameters.get("last_modified_time"), "last_modified_time")
        if any(fault.ignore_filters for fault in faults):
            filter_by, modified_after = "Status.All", None
        query = PageQuery(
            page=_count(parameters.get("page", "1"), "page"),
            per_page=min(_MOST_PER_PAGE, _count(parameters.get("per_page", "200"), "per_page")),
            sort_column=_choice(parameters.get("sort_column", "name"), SORT_KEYS, "sort_column"),
            descending=_choice(parameters.get("sort_order", "A"), {"A": 0, "D": 1}, "sort_order") == "D",
            modified_after=modified_after,
            inclusive=zoho.filter_is_inclusive,
            matches=_FILTERS[filter_by],
        )
    except _InvalidValue as invalid:
        return refused(Refusal(400, 2, str(invalid)))
    items, has_more_page = zoho.catalogue.page(query)
    start = (query.page - 1) * query.per_page
    for fault in faults:
        hidden = frozenset(fault.hidden_positions)
        items = [item for position, item in enumerate(items, start) if position not in hidden]
        items = [] if fault.empty_page else items
        if fault.short_pages_end and len(items) < query.per_page:
            has_more_page = False
        has_more_page = has_more_page if fault.has_more_page is None else fault.has_more_page
    for fault in faults:
        if fault.end is not None and query.page > 1 and not items:
            return Response(status_code=204) if fault.end == "204" else Response(fault.end)
    context: dict[str, Json] = {
        "page": query.page,
        "per_page": query.per_page,
        "has_more_page": has_more_page,
        "report_name": "Items",
        "applied_filter": filter_by,
        "sort_column": query.sort_column,
        "sort_order": "D" if query.descending else "A",
    }
    if modified_after is None:
        context["custom_fields"] = []
    else:
        context["search_criteria"] = [
            {
                "column_name": "last_modified_time",
                "search_text": parameters["last_modified_time"],
                "comparator": "greater_than",
            },
        ]
    return success(items=[shapes.list_element(item) for item in items], page_context=context)


async def _get_item(request: Request) -> Response:
    item_id = request.path_params["item_id"]
    if not _ITEM_ID.fullmatch(item_id):
        return refused(Refusal(404, 5, "Invalid URL Passed"))
    try:
        return success(item=shapes.detail(zoho_of(request).catalogue.get(item_id)))
    except NoSuchItem:
        return refused(_NO_SUCH_ITEM)


async def _get_item_details(request: Request) -> Response:
    item_ids = [part for part in request.query_params.get("item_ids", "").split(",") if part]
    if not item_ids:
        return refused(Refusal(400, 2, "Invalid value passed for item_ids"))
    catalogue = zoho_of(request).catalogue
    try:
        items = [catalogue.get(item_id) for item_id in dict.fromkeys(item_ids)]
    except NoSuchItem:
        # One dead id fails the whole batch, and the answer does not say which.
        return refused(_NO_SUCH_ITEM)
    return success(items=[shapes.detail(item) for item in items])


async def _list_organizations(request: Request) -> Response:
    zoho = zoho_of(request)
    return success(
        organizations=[
            {
                "organization_id": organization.organization_id,
                "name": organization.name,
                "is_default_org": organization is zoho.organization,
                "time_zone": organization.time_zone_name,
                "currency_code": organization.currency_code,
                "currency_symbol": organization.currency_symbol,
                "language_code": "en",
                "plan_name": "PREMIUM",
            }
            for organization in zoho.organizations
        ],
    )


async def _get_current_user(_: Request) -> Response:
    return success(
        user={
            "user_id": "4100000000000000011",
            "name": identity.USER_NAME,
            "email": identity.USER_EMAIL,
            "email_ids": [{"is_selected": True, "email": identity.USER_EMAIL}],
            "status": "active",
            "user_role": "admin",
            "is_current_user": True,
        },
    )


async def _list_currencies(request: Request) -> Response:
    organization = zoho_of(request).organization
    return success(
        currencies=[
            {
                "currency_id": "4100000000000000097",
                "currency_code": organization.currency_code,
                "currency_symbol": organization.currency_symbol,
                "price_precision": 2,
                "is_base_currency": True,
            },
        ],
    )


def _choice(value: str, choices: Mapping[str, object], parameter: str) -> str:
    if value not in choices:
        raise _InvalidValue(parameter)
    return value


def _count(value: str, parameter: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", value):
        raise _InvalidValue(parameter)
    return int(value)


def _time(value: str | None, parameter: str) -> datetime | None:
    try:
        return parse_zoho_time(value) if value is not None else None
    except ValueError:
        raise _InvalidValue(parameter) from None


ROUTES: Final = (
    Route(f"{API_PREFIX}items", _list_items, methods=["GET"]),
    Route(f"{API_PREFIX}items/{{item_id}}", _get_item, methods=["GET"]),
    Route(f"{API_PREFIX}itemdetails", _get_item_details, methods=["GET"]),
    Route(f"{API_PREFIX}organizations", _list_organizations, methods=["GET"]),
    Route(f"{API_PREFIX}users/me", _get_current_user, methods=["GET"]),
    Route(f"{API_PREFIX}settings/currencies", _list_currencies, methods=["GET"]),
)
