"""From the bytes of a delivery to the keys of one item, whatever body format the webhook's form was set to.

Zoho's default is JSON, `{"item": {…}}`. Templates in use send the default payload as the text of a `JSONString` field,
in a form or in JSON, or put their own envelope around it; composite items carry a key of their own.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from python_multipart import multipart
from python_multipart.exceptions import FormParserError

from processors.errors import BodyUnreadable
from processors.zoho.items import Fields, is_plain, item_id_of, read_json, time_of
from processors.zoho.signatures import BodyForm, Pair

_FORMS: Final[Mapping[str, BodyForm]] = {
    "": "json",
    "application/json": "json",
    "application/x-www-form-urlencoded": "form",
    "multipart/form-data": "multipart",
}
_ITEM_KEYS = ("item", "composite_item")
_ID_KEYS = ("item_id", "composite_item_id")
_EXPECTED = 'the body should hold an item, as in {"item": {"item_id": "…"}}'
# An envelope in an envelope in an envelope is the most that any template is known to make.
_DEEPEST_ENVELOPE = 4
_LARGEST_FORM_FIELDS = 1_000

# Its warnings quote bodies, also those that nobody signed.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@lru_cache(maxsize=16)
def form_of(content_type: str) -> BodyForm | None:
    """Return how a body of this type is read and signed; None: not at all. No type at all means JSON."""
    return _FORMS.get(content_type.partition(";")[0].strip().lower())


CHECK = b'{"zoho_mirror":"check"}'
"""A body that `check` sends through the public address, to see that signed deliveries arrive whole."""


class _UsualItem(msgspec.Struct):
    item_id: str
    last_modified_time: str = ""


class _Usual(msgspec.Struct):
    """Zoho's default payload."""

    item: _UsualItem


_read_usual = msgspec.json.Decoder(_Usual).decode


def identify(body: bytes, content_type: str, query_string: bytes) -> tuple[str, bool]:
    """Return the id of the item that a delivery is about, and whether the body says when it was modified.

    It finds what `read_item` finds; of a usual body it decodes nothing else, which takes a fifth of the time.

    Raises:
        BodyUnreadable: the text says what was expected and what was found.
    """
    if form_of(content_type) == "json" and is_plain(body):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # What is not decoded is not looked at either: Latin-1 would pass.
            item = _read_usual(body.decode()).item
            item_id = item_id_of(item.item_id)
            if item_id is not None:
                return item_id, time_of(item.last_modified_time) is not None
    item_id, fields = read_item(body, content_type, query_string)
    return item_id, time_of(fields.get("last_modified_time")) is not None


def read_item(body: bytes, content_type: str, query_string: bytes) -> tuple[str, Fields]:
    """Return the item's id and the keys of the item that a delivery holds.

    A delivery without a body (`DELETE`) names the item in its query string.

    Raises:
        BodyUnreadable: the text says what was expected and what was found.
    """
    envelope = _envelope(body, content_type, query_string)
    candidates = list(_items(envelope, _DEEPEST_ENVELOPE))
    for fields in candidates:
        for key in _ID_KEYS:
            item_id = item_id_of(fields.get(key))
            if item_id is not None:
                return item_id, {**fields, "item_id": item_id}
    if candidates:
        found = candidates[0].get("item_id", "nothing")
        message = f"item.item_id should be digits without a zero in front, at most 20; got {_shown(found)}"
    else:
        message = f"{_EXPECTED}; got {_shown(envelope)}"
    raise BodyUnreadable(message)


def envelope_of(body: bytes, content_type: str, query_string: bytes) -> str:
    """Return the key around the item; "" if there is none.

    Raises:
        BodyUnreadable: there is no item.
    """
    value = _envelope(body, content_type, query_string)
    if not isinstance(value, dict) or any(key in value for key in _ID_KEYS):
        return ""
    return next((key for key in ("JSONString", *_ITEM_KEYS) if key in value), next(iter(value), ""))[:100]


def multipart_pairs(body: bytes, content_type: str) -> list[Pair]:
    """Return the text fields of a multipart body, for its signature.

    Raises:
        BodyUnreadable: it is not multipart, or has far too many parts.
    """
    pairs: list[Pair] = []
    parts = count(1)

    def tally(_part: object) -> None:
        if next(parts) > _LARGEST_FORM_FIELDS:
            message = f"the form has more than {_LARGEST_FORM_FIELDS} fields"
            raise BodyUnreadable(message)

    def keep(field: Any) -> None:  # noqa: ANN401 - the parser's own untyped field
        tally(field)
        name, value = field.field_name or b"", field.value or b""
        pairs.append((name.decode("utf-8", "replace"), value.decode("utf-8", "replace")))

    headers = {"Content-Type": content_type.encode("latin-1", "replace")}
    try:
        multipart.parse_form(headers, io.BytesIO(body), on_field=keep, on_file=tally)
    except (FormParserError, ValueError) as error:
        message = f"the body is not valid multipart/form-data: {error}"
        raise BodyUnreadable(message) from None
    return pairs


def _envelope(body: bytes, content_type: str, query_string: bytes) -> object:
    if not body.strip():
        if not query_string:
            message = f"{_EXPECTED}; it is empty"
            raise BodyUnreadable(message)
        return _form_value(parse_qsl(query_string.decode("utf-8", "replace"), keep_blank_values=True))
    match form_of(content_type):
        case "form":
            return _form_value(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        case "multipart":
            return _form_value(multipart_pairs(body, content_type))
        case _:
            return read_json(body)


def _form_value(pairs: Sequence[Pair]) -> dict[str, str]:
    if len(pairs) > _LARGEST_FORM_FIELDS:
        message = f"the form has more than {_LARGEST_FORM_FIELDS} fields"
        raise BodyUnreadable(message)
    # Text columns refuse NUL wherever it comes from.
    return {key.replace("\x00", "\ufffd"): value.replace("\x00", "\ufffd") for key, value in pairs}


def _items(value: object, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield what may be the item, the likeliest first."""
    if isinstance(value, str):
        value = _embedded(value)
    if not isinstance(value, dict) or depth == 0:
        return
    for key in _ITEM_KEYS:
        inner = value.get(key)
        inner = _embedded(inner) if isinstance(inner, str) else inner
        if isinstance(inner, dict):
            yield inner
    if any(key in value for key in _ID_KEYS):
        yield value
    for key, inner in value.items():
        if key not in _ITEM_KEYS and (isinstance(inner, dict) or key == "JSONString"):
            yield from _items(inner, depth - 1)


def _embedded(text: str) -> object:
    """Decode JSON inside a text; templates are known to send it with its quotes escaped once more."""
    for candidate in (text, text.replace('\\"', '"')):
        try:
            return read_json(candidate)
        except BodyUnreadable:
            continue
    return None


def _shown(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(str(key)[:40] for key in list(value)[:8])
        return f"an object with {f'the keys {keys}' if keys else 'no keys'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - the length of a readable line
