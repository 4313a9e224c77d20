"""Pages of Zoho's item list: of each item only what fills columns is read; the rest stays the bytes that were received.

Most items of a sweep are what their rows say already, and are never decoded further than that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from processors import field_table
from processors.errors import BodyUnreadable
from processors.store.database import encode_json
from processors.zoho import items
from processors.zoho.items import Body, Fields, item_id_of, read_json, time_of

_ID_KEY: Final = "item_id"


class _Page(msgspec.Struct):
    """The parts of a page, with each item as the bytes it is made of."""

    items: list[msgspec.Raw]
    code: Any = None
    message: Any = None
    page_context: Any = None


# The keys of an item that say something to the mirror; odd values are the business of `items`.
_KEYS: Final = (_ID_KEY, *field_table.MAPPED, "track_inventory", "created_time", "last_modified_time")
_Mapped = msgspec.defstruct("_Mapped", [(key, Any, msgspec.UNSET) for key in _KEYS])
# What a glance reads; the other keys stay the bytes that were received.
_GLANCED_AT: Final = (_ID_KEY, "created_time", "last_modified_time")
_Glance = msgspec.defstruct(
    "_Glance",
    [(key, Any, msgspec.UNSET) for key in _GLANCED_AT]
    + [(key, msgspec.Raw, msgspec.Raw()) for key in _KEYS if key not in _GLANCED_AT],
)
# A release with another version of the fields gives items other digests: their rows are looked at again.
_READING: Final = hashlib.blake2b(field_table.VERSION.encode(), digest_size=16)
# Strings, so that what looks like structure within them does not count; and the structure.
_SIGNS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
_ITEMS_DEPTH = 2
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_glance = msgspec.json.Decoder(_Glance, float_hook=items.read_number).decode
_decode_mapped = msgspec.json.Decoder(_Mapped, float_hook=items.read_number).decode


@dataclass(frozen=True, slots=True)
class ListedItem:
    """One item of a page."""

    raw: bytes
    """As received."""
    item_id: str | None
    """None: there is no usable id in it."""
    created_at: datetime | None
    modified_at: datetime | None
    digest: bytes | None
    """Of all that `body` would read, as it is written; None where that is too odd for a glance."""

    @property
    def key(self) -> str:
        """What it is recognised by on another page: its id, or something that stands in for one."""
        return self.item_id or f"!{hashlib.blake2b(self.raw, digest_size=16).hexdigest()}"

    def body(self) -> Body:
        """Return what fills columns.

        Raises:
            BodyUnreadable: it is no object, or nested too deeply.
        """
        return items.read_body(_mapped(self.raw), is_listed=True)

    def read(self) -> Fields:
        """Return all of its keys.

        Raises:
            BodyUnreadable: it is no object with an id, or nested too deeply; the text says so.
        """
        fields = read_json(self.raw)
        if not isinstance(fields, dict):
            message = f"an item of Zoho's list should be an object; got a {type(fields).__name__}"
            raise BodyUnreadable(message)
        if self.item_id is None:
            message = f"item_id should be Zoho's number of the item; got {str(fields.get(_ID_KEY, 'nothing'))[:60]!r}"
            raise BodyUnreadable(message)
        return {**fields, _ID_KEY: self.item_id}


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One answer of `GET /items`."""

    items: tuple[ListedItem, ...]
    has_more: bool
    per_page: int | None
    """The size that Zoho says it took."""


def read_envelope(content: bytes) -> Mapping[str, Any] | None:
    """Return the parts of a list's answer, its items as bytes; None: it is no JSON object."""
    try:
        page = _decode_page(content)
    except RecursionError:
        return _cut(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_forgivingly(content)
    return {"code": page.code, "message": page.message, "items": page.items, "page_context": page.page_context}


def _read_forgivingly(content: bytes) -> Mapping[str, Any] | None:
    """Read an error, or a page that holds something which the strict decoder refuses."""
    try:
        answer = read_json(content)
    except BodyUnreadable:
        return None
    if not isinstance(answer, dict):
        return None
    found = answer.get("items")
    return {**answer, "items": [encode_json(item) for item in found]} if isinstance(found, list) else answer


def _cut(content: bytes) -> Mapping[str, Any] | None:
    """Cut a page into its items by signs alone: one that is nested too deeply must not cost the others."""
    depth, begins, array = 0, 0, None
    key = found_end = None
    found: list[bytes] = []
    for token in _SIGNS.finditer(content):
        sign = token[0]
        if sign[:1] == b'"':
            key = token
        elif sign in b"{[":
            is_items = key and key[0] == b'"items"' and content[key.end() : token.start()].strip() == b":"
            depth += 1
            if sign == b"[" and depth == _ITEMS_DEPTH and is_items:
                array, begins = token.start(), token.end()
        elif array is not None and depth == _ITEMS_DEPTH and sign in b",]":
            found.append(content[begins : token.start()].strip())
            begins = token.end()
        if sign in b"}]":
            depth -= 1
            if array is not None and depth < _ITEMS_DEPTH:
                found_end = token.end()
                break
    if array is None or found_end is None:
        return None
    try:
        page = _decode_page(content[:array] + b"[]" + content[found_end:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    items_found = [each for each in found if each]
    return {"code": page.code, "message": page.message, "items": items_found, "page_context": page.page_context}


def read_page(envelope: Mapping[str, Any], *, per_page: int, may_be_end: bool = False) -> ListedPage | None:
    """Return the page that a successful answer holds, or None where it holds none; `per_page` is what was asked for.

    `may_be_end`: a success without items is an empty page.
    """
    found = envelope.get("items")
    if may_be_end and found in (None, {}) and envelope.get("code") in (0, "0"):
        found = []
    if not isinstance(found, list):
        return None
    context = envelope.get("page_context")
    context = context if isinstance(context, dict) else {}
    told = context.get("has_more_page")
    has_more = len(found) >= per_page if told is None else told in (True, "true")
    size = context.get("per_page")
    return ListedPage(
        items=tuple(_read_item(bytes(raw)) for raw in found),
        has_more=has_more,
        per_page=size if isinstance(size, int) else None,
    )


def _read_item(raw: bytes) -> ListedItem:
    glance = _glance(raw)
    if glance is not None:
        item_id, created, modified, *values = msgspec.structs.astuple(glance)
        return ListedItem(raw, item_id_of(item_id), time_of(created), time_of(modified), _digest(modified, values))
    try:
        fields = _mapped(raw)
    except BodyUnreadable:
        return ListedItem(raw, None, None, None, None)
    item_id, created, modified = (fields.get(key) for key in _GLANCED_AT)
    return ListedItem(raw, item_id_of(item_id), time_of(created), time_of(modified), None)


def _glance(raw: bytes) -> msgspec.Struct | None:
    if _has_escaped_nul(raw):
        return None
    try:
        return _decode_glance(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _digest(modified: object, values: list[msgspec.Raw]) -> bytes:
    # Each is one JSON value or nothing at all, so that no two lists of them are the same between commas.
    digest = _READING.copy()
    digest.update(b",".join((repr(modified).encode(), *values)))
    return digest.digest()


def _mapped(raw: bytes) -> Fields:
    if not _has_escaped_nul(raw):
        try:
            mapped = _decode_mapped(raw)
            values = zip(_KEYS, msgspec.structs.astuple(mapped), strict=True)
            return {key: value for key, value in values if value is not msgspec.UNSET}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    fields = read_json(raw)
    if not isinstance(fields, dict):
        message = "an item of Zoho's list is no object"
        raise BodyUnreadable(message)
    return {key: fields[key] for key in _KEYS if key in fields}


def _has_escaped_nul(raw: bytes) -> bool:
    # It is legal JSON, and no text that Postgres takes.
    return b"\\u0000" in raw
