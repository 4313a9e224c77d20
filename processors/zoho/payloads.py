"""From the bytes of a delivery to the keys of one item, whatever body format the webhook's form was set to.

Zoho's default is JSON, `{"item": {…}}`. Templates in use send the default payload as the text of a `JSONString` field,
in a form or in JSON, or put their own envelope around it; composite items carry a key of their own. Nothing else is
unwrapped: an item inside the document of another module is a line of that document, with its price, not Zoho's item.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, count
from typing import Any, Final, Literal

import msgspec
from python_multipart import multipart
from python_multipart.exceptions import FormParserError

from processors.errors import BodyUnreadable
from processors.zoho.items import Fields, is_plain, item_id_of, read_json, time_of
from processors.zoho.signatures import MOST_PAIRS, BodyForm, Pair, pairs_of, text_of

_FORMS: Final[Mapping[str, BodyForm]] = {
    "": "json",
    "application/json": "json",
    "application/x-www-form-urlencoded": "form",
    "multipart/form-data": "multipart",
}
_ITEM_KEYS = ("item", "composite_item")
_ID_KEYS = ("item_id", "composite_item_id")
# A list of items, which no rule sends: whoever does has no rule of another module to look for.
_OF_ITEMS = ("items", "composite_items")
_JSON_STRING = "JSONString"
# What integrators put around an envelope, beside keys such as event_type and organization_id.
_WRAPPERS = ("data", "payload", "body", "content", "event", "message", "record", "resource")
_EXPECTED = 'the body should hold an item, as in {"item": {"item_id": "…"}}'
# An envelope in an envelope in an envelope is the most that any template is known to make.
_DEEPEST_ENVELOPE = 4
_Nothing = Literal[""] | None
# Of Zoho's other modules, in the singular and without separators; their documents have items inside.
_OTHER_MODULES = frozenset({
    "assembly", "bill", "bundle", "contact", "creditnote", "customer", "customerpayment", "deliverychallan", "estimate",
    "expense", "inventoryadjustment", "invoice", "itemgroup", "journal", "moveorder", "package", "payment", "picklist",
    "pricebook", "pricelist", "purchaseorder", "purchasereceive", "putaway", "recurringinvoice", "retainerinvoice",
    "salesorder", "salesreturn", "shipment", "shipmentorder", "transferorder", "vendor", "vendorcredit",
    "vendorpayment",
})  # fmt: skip


class _NoDocument(msgspec.Struct):
    """The ids that a document of another module, or one of its lines, has, and an item has not."""

    bill_id: _Nothing = None
    creditnote_id: _Nothing = None
    estimate_id: _Nothing = None
    inventory_adjustment_id: _Nothing = None
    invoice_id: _Nothing = None
    line_item_id: _Nothing = None
    package_id: _Nothing = None
    purchaseorder_id: _Nothing = None
    salesorder_id: _Nothing = None
    salesreturn_id: _Nothing = None
    shipment_id: _Nothing = None
    transfer_order_id: _Nothing = None
    vendor_credit_id: _Nothing = None


_OTHER_IDS = {key: key.removesuffix("_id") for key in _NoDocument.__struct_fields__}
_MODULE_SAYING_KEYS = ("event_type", "module", "entity_type")
_MODULE_NAME = re.compile(r"[A-Za-z]\w{1,39}", re.ASCII)

_ORGANISATION = re.compile(r"organization_id([0-9]{1,20})")

_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_SIGNED_AS_IT_IS = "signed=raw"

# Its warnings quote bodies, also those that nobody signed.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@lru_cache(maxsize=64)
def _declared(content_type: str) -> BodyForm | None:
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    return "json" if _SIGNED_AS_IT_IS in parameters else _FORMS.get(kind.lower())


def is_taken(content_type: str) -> bool:
    """Tell whether this is a type that webhooks are known to send. No type at all means JSON."""
    return _declared(content_type) is not None


def form_of(body: bytes, content_type: str) -> BodyForm:
    """Return how a body is read and signed: what looks like JSON is JSON, whatever type is written over it."""
    if body.startswith(b"{") or body.lstrip(_BEFORE_JSON)[:1] in (b"{", b"["):
        return "json"
    return _declared(content_type) or "json"


def signed_as_it_is(content_type: str) -> str:
    """Return the type to keep for a body whose bytes are signed and are no form, so that nobody reads one in them."""
    return f"{content_type}; {_SIGNED_AS_IT_IS}"


CHECK = b'{"zoho_mirror":"check"}'
"""A body that `check` sends through the public address, to see that signed deliveries arrive whole."""


class _UsualItem(_NoDocument, kw_only=True):
    item_id: str
    last_modified_time: str = ""


class _Usual(msgspec.Struct, forbid_unknown_fields=True):
    """Zoho's default payload: what stands beside the item has to be looked at."""

    item: _UsualItem


_read_usual = msgspec.json.Decoder(_Usual).decode


def identify(body: bytes, content_type: str, query_string: bytes) -> tuple[str, bool]:
    """Return the id of the item that a delivery is about, and whether the body says when it was modified.

    It finds what `read_item` finds; of a usual body it decodes nothing else, which takes a fifth of the time.

    Raises:
        BodyUnreadable: the text says what was expected and what was found.
    """
    if form_of(body, content_type) == "json" and is_plain(body):
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
    return _item_in(_envelope(body, content_type, query_string))


def _item_in(envelope: object) -> tuple[str, Fields]:
    candidates = list(_items(envelope, _DEEPEST_ENVELOPE))
    for fields in candidates:
        for key in _ID_KEYS:
            item_id = item_id_of(fields.get(key))
            if item_id is not None:
                return item_id, {**fields, "item_id": item_id}
    if candidates:
        raise _no_id(candidates[0].get("item_id", "nothing"))
    raise _not_an_item(envelope, _unknown_key(envelope))


def read_certain(body: bytes, content_type: str, query_string: bytes) -> tuple[str, Fields]:
    """Return what `read_item` returns, as far as the signature covers it: what may change a row.

    Of the fields of a form that is the item's id. Their signed text does not say where a key ends and its value
    begins: a name `Corporate 5` could be sent again as the name `Corpo` and the rate `5`.

    Raises:
        BodyUnreadable: as of `read_item`.
    """
    envelope = _envelope(body, content_type, query_string)
    item_id, fields = _item_in(envelope)
    is_json = form_of(body, content_type) == "json" and body.strip()
    is_certain = is_json or (isinstance(envelope, dict) and _JSON_STRING in envelope)
    return item_id, fields if is_certain else {"item_id": item_id}


def organisations_of(body: bytes, content_type: str, query_string: bytes) -> set[str]:
    """Return the organisations that a delivery names beside its item: in its envelope, its form or its query string.

    Raises:
        BodyUnreadable: there is no envelope.
    """
    pairs = pairs_of(query_string)
    if body.strip() and form_of(body, content_type) != "json":
        pairs += _pairs(body, content_type)
    # Not by keys: where a key ends is not signed, what stands there is.
    named = set(_ORGANISATION.findall(text_of(sorted(pair for pair in pairs if pair[0] != _JSON_STRING))))
    if form_of(body, content_type) != "json" or b"organization_id" in body or not body.strip():
        envelope = _envelope(body, content_type, query_string)
        found = (str(level.get("organization_id")).strip() for level in _levels(envelope, _DEEPEST_ENVELOPE))
        named |= {each for each in found if each.isascii() and each.isdecimal()}
    return named


def envelope_of(body: bytes, content_type: str, query_string: bytes) -> str:
    """Return the key around the item; "" if there is none.

    Raises:
        BodyUnreadable: there is no item.
    """
    value = _envelope(body, content_type, query_string)
    if not isinstance(value, dict) or any(key in value for key in _ID_KEYS):
        return ""
    return next((key for key in (_JSON_STRING, *_ITEM_KEYS) if key in value), next(iter(value), ""))[:100]


def multipart_pairs(body: bytes, content_type: str) -> list[Pair]:
    """Return the text fields of a multipart body, for its signature.

    Raises:
        BodyUnreadable: it is not multipart, or has far too many parts.
    """
    pairs: list[Pair] = []
    parts = count(1)

    def tally(_part: object) -> None:
        if next(parts) > MOST_PAIRS:
            message = f"the form has more than {MOST_PAIRS} fields"
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
        return _read_pairs(pairs_of(query_string), [])
    if form_of(body, content_type) == "json":
        return read_json(body.lstrip(_BEFORE_JSON))
    return _read_pairs(_pairs(body, content_type), pairs_of(query_string))


def _pairs(body: bytes, content_type: str) -> list[Pair]:
    return multipart_pairs(body, content_type) if form_of(body, content_type) == "multipart" else pairs_of(body)


def _read_pairs(pairs: Sequence[Pair], others: Sequence[Pair]) -> dict[str, str]:
    """Return what pairs say, if no other cut of the text that is signed can be of another item.

    `others` are signed with them, and not read: the query string beside a form.

    Raises:
        BodyUnreadable: the same text could be of another item.
    """
    if len(pairs) > MOST_PAIRS:
        message = f"the form has more than {MOST_PAIRS} fields"
        raise BodyUnreadable(message)
    ordered = sorted([*pairs, *others])
    text = text_of(ordered)
    starts = accumulate((len(key) + len(value) for key, value in ordered), initial=0)
    keys = [(start, key) for start, (key, _) in zip(starts, ordered, strict=False)]
    # Text columns refuse NUL wherever it comes from.
    fields = {key.replace("\x00", "\ufffd"): value.replace("\x00", "\ufffd") for key, value in pairs}
    if _JSON_STRING in text:
        # It is read alone, and whole or not at all: no end of JSON is JSON. But it has to be the one that was sent.
        if [key for key, _ in pairs].count(_JSON_STRING) != 1 or (text.index(_JSON_STRING), _JSON_STRING) not in keys:
            message = f"{_EXPECTED}; {_JSON_STRING} should be one field of it, and be in no other"
            raise BodyUnreadable(message)
        return {_JSON_STRING: fields[_JSON_STRING]}
    if not any(key in fields for key in _ID_KEYS):
        raise _not_an_item(fields, _other_module(fields))
    ids = {value.strip() for key, value in ordered if key in _ID_KEYS}
    if len(ids) > 1 or text.count("item_id") != sum(key in _ID_KEYS for _, key in keys):
        message = f"{_EXPECTED}; item_id should be one field of it, and be in no other"
        raise BodyUnreadable(message)
    (item_id,) = ids
    if item_id_of(item_id) is None:
        # Digits end where the next key begins; anything else would end anywhere.
        raise _no_id(item_id)
    return fields


def _levels(value: object, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield the envelopes around an item, the outermost first, and the item itself where it has none."""
    if isinstance(value, str):
        value = _embedded(value)
    if not isinstance(value, dict) or depth == 0:
        return
    yield value
    for key, inner in value.items():
        if key == _JSON_STRING or (key in _WRAPPERS and isinstance(inner, dict)):
            yield from _levels(inner, depth - 1)


def _items(envelope: object, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield what may be the item, the likeliest first.

    Raises:
        BodyUnreadable: it is a document of another module.
    """
    for level in _levels(envelope, depth):
        module = _other_module(level)
        if module:
            raise _not_an_item(level, module)
        for key in _ITEM_KEYS:
            inner = level.get(key)
            inner = _embedded(inner) if isinstance(inner, str) else inner
            if isinstance(inner, dict):
                # A line of a document, in the envelope that a template gave it, is still no item.
                if other := _other_id(inner):
                    raise _not_an_item(inner, other)
                yield inner
        if any(key in level for key in _ID_KEYS):
            yield level


def _other_module(level: Mapping[str, Any]) -> str | None:
    """Return the module of Zoho whose document this is, if it says so and that is not the items'."""
    if other := _other_id(level):
        return other
    is_item = any(key in level for key in _ID_KEYS)
    for key, value in level.items():
        if not is_item and isinstance(value, dict | list) and key.lower().replace("_", "") in _OTHER_MODULES:
            return key
        if key in _MODULE_SAYING_KEYS and isinstance(value, str):
            words = re.split(r"[^a-z]+", value.lower(), maxsplit=2)[:2]
            for name in ("".join(words), words[0]):
                if name in _OTHER_MODULES or name.removesuffix("s") in _OTHER_MODULES:
                    return name
    return None


def _other_id(level: Mapping[str, Any]) -> str | None:
    """Return the document or line whose id this object has."""
    return next((_OTHER_IDS[key] for key, value in level.items() if key in _OTHER_IDS and value), None)


def _unknown_key(envelope: object) -> str | None:
    """Return the key under which a body that holds no item holds something else."""
    known = {*_ITEM_KEYS, *_WRAPPERS, _JSON_STRING, *_OF_ITEMS}
    for level in _levels(envelope, _DEEPEST_ENVELOPE):
        for key, value in level.items():
            if key not in known and isinstance(value, dict | list):
                return key
    return None


def _no_id(found: object) -> BodyUnreadable:
    return BodyUnreadable(f"item.item_id should be digits without a zero in front, at most 20; got {_shown(found)}")


def _not_an_item(found: object, module: str | None) -> BodyUnreadable:
    message = f"{_EXPECTED}; got {_shown(found)}"
    if module is not None and _MODULE_NAME.fullmatch(module):
        message += (
            f": a document of the module {module}. A workflow rule of that module calls this address; in Zoho, under "
            "Settings > Automation > Workflow Rules, take this webhook out of it"
        )
    return BodyUnreadable(message)


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
