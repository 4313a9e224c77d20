"""The bodies a webhook can be set up to send, and which part of each is signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, assert_never
from urllib.parse import urlencode
from zlib import crc32

from simulator.wire import Json, dumps

_JSON: Final = "application/json;charset=UTF-8"
_FORM: Final = "application/x-www-form-urlencoded;charset=UTF-8"
_FORM_FIELDS: Final = (
    "item_id",
    "name",
    "sku",
    "description",
    "rate",
    "unit",
    "brand",
    "category_id",
    "category_name",
    "status",
    "stock_on_hand",
    "created_time",
    "last_modified_time",
)


class BodyFormat(StrEnum):
    """What the webhook form's body setting was left at, or made to be."""

    DEFAULT = "default"
    """`{"item": {…}}`"""
    JSON_STRING = "json_string"
    """`{"JSONString": "…"}`"""
    COMPOSITE_ITEM = "composite_item"
    """`{"composite_item": {…}}`, with `composite_item_id` beside the equal `item_id`"""
    WRAPPER = "wrapper"
    """`{"event_type", "organization_id", "entity_id", "item": {…}}`"""
    DATA_WRAPPER = "data_wrapper"
    """`{"event_type", "data": {"item": {…}}}`"""
    FORM_FIELDS = "form_fields"
    """pairs chosen by a person, urlencoded: an item's main fields, flat and as text"""
    FORM_JSON_STRING = "form_json_string"
    """one urlencoded pair, `JSONString`"""
    MULTIPART_FIELDS = "multipart_fields"
    """the pairs of `FORM_FIELDS` as multipart/form-data"""
    MULTIPART_JSON_STRING = "multipart_json_string"
    """one multipart part, `JSONString`"""


@dataclass(frozen=True, slots=True)
class Body:
    """A request body, and what of it enters the signature: decoded `form` pairs, or `signed_raw`."""

    content_type: str
    content: bytes
    form: tuple[tuple[str, str], ...] = ()
    signed_raw: bytes = b""


def encode(
    body_format: BodyFormat,
    payload: Mapping[str, Mapping[str, Json]],
    *,
    event_type: str,
    organization_id: str,
    multipart_signs_pairs: bool = True,
) -> Body:
    """Encode a default payload, `{"item": {…}}`, in one of the formats.

    How Zoho signs multipart bodies is unknown: either its pairs as for a form, or the raw bytes.
    """
    item = payload["item"]
    match body_format:
        case BodyFormat.DEFAULT:
            return _json(payload)
        case BodyFormat.JSON_STRING:
            return _json({"JSONString": dumps(payload)})
        case BodyFormat.COMPOSITE_ITEM:
            return _json({"composite_item": {"composite_item_id": item["item_id"], **item}})
        case BodyFormat.WRAPPER:
            about: dict[str, Json] = {"event_type": event_type, "organization_id": organization_id}
            return _json({**about, "entity_id": item["item_id"], **payload})
        case BodyFormat.DATA_WRAPPER:
            return _json({"event_type": event_type, "data": payload})
        case BodyFormat.FORM_FIELDS:
            return _form(_flat_pairs(item))
        case BodyFormat.FORM_JSON_STRING:
            return _form([("JSONString", dumps(payload))])
        case BodyFormat.MULTIPART_FIELDS:
            return _multipart(_flat_pairs(item), signs_pairs=multipart_signs_pairs)
        case BodyFormat.MULTIPART_JSON_STRING:
            pairs = [("JSONString", dumps(payload))]
            return _multipart(pairs, signs_pairs=multipart_signs_pairs)
    assert_never(body_format)


def _json(value: Json) -> Body:
    content = dumps(value).encode()
    return Body(_JSON, content, signed_raw=content)


def _form(pairs: Sequence[tuple[str, str]]) -> Body:
    return Body(_FORM, urlencode(pairs).encode(), form=tuple(pairs))


def _multipart(pairs: Sequence[tuple[str, str]], *, signs_pairs: bool) -> Body:
    boundary = f"----ZohoSimulator{crc32(repr(pairs).encode()):08x}"
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in pairs]
    content = "".join([*parts, f"--{boundary}--\r\n"]).encode()
    content_type = f"multipart/form-data; boundary={boundary}"
    if signs_pairs:
        return Body(content_type, content, form=tuple(pairs))
    return Body(content_type, content, signed_raw=content)


def _flat_pairs(item: Mapping[str, Json]) -> list[tuple[str, str]]:
    return [(key, _as_text(item[key])) for key in _FORM_FIELDS if key in item]


def _as_text(value: Json) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
