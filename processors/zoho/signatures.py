"""The signature of Zoho's webhooks: `sign` beside `verify`.

The rule is Zoho Billing's (knowledge base, "Securing webhooks"), which Books and Inventory share: sort the pairs of
the query string and of a form body by key, write each key followed by its value, append a JSON body as it is, and
take HMAC-SHA256 under the webhook's secret. The page leaves open how the digest is written, how repeated keys sort
and how a `+` is read, so each reading is tried.

By that rule many requests have one signature: nothing in the signed text says where a key ends and its value begins,
or where the pairs end and the body begins, so that one signed delivery can be cut anew without the secret. Three rules
leave no cut that means something else. A key is a word (`_KEY`): JSON cannot be cut into pairs. How a body is read
follows from its bytes (`payloads.form_of`), not from the type written over it. And of pairs `payloads.read_item`
believes only what every cut of the same text would say.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_plus

import msgspec

HEADER = "X-Zoho-Webhook-Signature"

Pair = tuple[str, str]
BodyForm = Literal["json", "form", "multipart"]

MOST_PAIRS = 100
"""Pairs of a form and a query string together, which Zoho's screens have people type in."""
MOST_QUERY_BYTES = 2_000
# What people give parameters for a name, and never what JSON begins with. Nor a digit: it would be read as the end of
# an id that stands before it in the signed text.
_KEY = re.compile(r"[^\W\d][\w .-]{0,99}")


class Signed(msgspec.Struct, frozen=True):
    """What a signature was found to cover."""

    text: bytes
    """What tells copies of a delivery: the signed text, however the request writes it."""
    secret: int
    """Which of the secrets signed it, counted from 1."""
    is_raw: bool
    """The body's bytes are signed as they are."""
    keeps_plus: bool
    """A `+` in the query string or form was signed as a plus sign, not as a space."""


def sign(secret: str, *, body: bytes = b"", pairs: Sequence[Pair] = ()) -> str:
    """Return the lowercase hex signature of a JSON `body` and the query's or form's decoded `pairs`."""
    return hmac.new(secret.encode(), _bytes_of(sorted(pairs)) + body, hashlib.sha256).hexdigest()


def verify(
    signature: str,
    secrets: Sequence[str],
    *,
    body: bytes,
    query: bytes,
    form: BodyForm,
    multipart_fields: Sequence[Pair] = (),
) -> Signed | None:
    """Return what the signature covers, or None: nothing of this request. It is hex in any case, or base64.

    `query` is the raw query string, `body` the raw body, `multipart_fields` its decoded text fields.
    """
    given = _digest(signature)
    if given is None:
        return None
    if form == "json" and not query:
        secret = _secret_of(given, body, secrets)
        return Signed(body, secret, is_raw=True, keeps_plus=False) if secret else None
    for candidate in _candidates(body, query, form, multipart_fields):
        secret = _secret_of(given, candidate.signed, secrets)
        if secret:
            text = candidate.signed if candidate.copy is None else candidate.copy
            return Signed(text, secret, candidate.is_raw, candidate.keeps_plus)
    return None


def _secret_of(given: bytes, text: bytes, secrets: Sequence[str]) -> int:
    digests = [hmac.digest(secret.encode(), text, "sha256") for secret in secrets]
    # Every secret is compared, in constant time; how long it takes tells which reading fits, and nothing more.
    matches = [hmac.compare_digest(given, digest) for digest in digests]
    return matches.index(True) + 1 if any(matches) else 0


def encoding_of(signature: str) -> Literal["hex", "base64"] | None:
    """Return how a signature is written, or None where it is none: not 32 bytes in hex or base64."""
    if _digest(signature) is None:
        return None
    return "hex" if len(signature.strip()) == hashlib.sha256().digest_size * 2 else "base64"


def _digest(signature: str) -> bytes | None:
    """Read 32 bytes written in hex or base64; None if it is neither."""
    text = signature.strip()
    try:
        if len(text) == hashlib.sha256().digest_size * 2:
            return binascii.unhexlify(text)
        digest = base64.b64decode(text + "=" * (-len(text) % 4), altchars=None, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == hashlib.sha256().digest_size else None


def pairs_of(encoded: bytes, *, keeps_plus: bool = False) -> list[Pair]:
    """Return the decoded pairs of a query string or form, in their order."""
    text = encoded.decode("utf-8", "replace")
    if keeps_plus:
        text = text.replace("+", "%2B")
    parts = (part.partition("=") for part in text.split("&") if part)
    return [(unquote_plus(key), unquote_plus(value)) for key, _, value in parts]


def are_plausible(pairs: Sequence[Pair]) -> bool:
    """Tell whether Zoho may have sent these pairs: not many, and each key a word."""
    return len(pairs) <= MOST_PAIRS and all(_KEY.fullmatch(key) for key, _ in pairs)


@dataclass(frozen=True, slots=True)
class _Candidate:
    signed: bytes
    copy: bytes | None = None
    is_raw: bool = False
    keeps_plus: bool = False


def _candidates(body: bytes, query: bytes, form: BodyForm, fields: Sequence[Pair]) -> Iterator[_Candidate]:
    """Yield what may have been signed: two readings of the pairs at most, in three orders each, and the raw body."""
    if len(query) > MOST_QUERY_BYTES or query.count(b"&") >= MOST_PAIRS:
        return
    is_blank = not body.strip()
    encoded = body if form == "form" and not is_blank and body.count(b"&") < MOST_PAIRS else b""
    for keeps_plus in (False, True) if b"+" in query or b"+" in encoded else (False,):
        of_query = pairs_of(query, keeps_plus=keeps_plus)
        if not are_plausible(of_query):
            return
        of_body = fields if form == "multipart" else pairs_of(encoded, keeps_plus=keeps_plus)
        pairs = [*of_query, *of_body]
        # A body that is not empty and holds no pairs is signed as it is, or not at all.
        texts = _orders(pairs) if (of_body or is_blank) and are_plausible(pairs) else []
        # A multipart body may be signed in both ways, and is the same delivery then.
        copy = texts[0] if form == "multipart" and texts else None
        yield from (_Candidate(text, keeps_plus=keeps_plus) for text in texts)
        for text in _orders(of_query) if form == "json" else [_bytes_of(sorted(of_query))]:
            yield _Candidate(text + body, copy, is_raw=True, keeps_plus=keeps_plus)


def _orders(pairs: Sequence[Pair]) -> list[bytes]:
    """Return the pairs as they are signed, in the orders that "alphabetical by key" may mean."""
    orders = (
        sorted(pairs),
        sorted(pairs, key=lambda pair: pair[0]),
        sorted(pairs, key=lambda pair: pair[0].casefold()),
    )
    return list(dict.fromkeys(map(_bytes_of, orders)))


def text_of(pairs: Iterable[Pair]) -> str:
    """Return what is signed of pairs in this order."""
    return "".join(key + value for key, value in pairs)


def _bytes_of(pairs: Iterable[Pair]) -> bytes:
    return text_of(pairs).encode("utf-8", "surrogatepass")
