"""The signature of Zoho's webhooks: `sign` beside `verify`.

The rule is Zoho Billing's (knowledge base, "Securing webhooks"), which Books and Inventory share: sort the pairs of
the query string and of a form body by key, write each key followed by its value, append a JSON body as it is, and
take HMAC-SHA256 under the webhook's secret. The page leaves open how the digest is written, how repeated keys sort,
whether empty values count and how a `+` is read, so every reading is tried: none of them can be met without the secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Literal
from urllib.parse import parse_qsl, unquote

HEADER = "X-Zoho-Webhook-Signature"

Pair = tuple[str, str]
BodyForm = Literal["json", "form", "multipart"]

# More pairs than this come from no Zoho template; sorting and hashing them would cost an unauthenticated
# sender nothing and us something.
_MOST_PAIRS = 2_000


def sign(secret: str, *, body: bytes = b"", pairs: Sequence[Pair] = ()) -> str:
    """Return the lowercase hex signature of a JSON `body` and the query's or form's decoded `pairs`."""
    return hmac.new(secret.encode(), _written(sorted(pairs)) + body, hashlib.sha256).hexdigest()


def verify(
    signature: str,
    secrets: Sequence[str],
    *,
    body: bytes,
    query: bytes,
    form: BodyForm,
    multipart_fields: Sequence[Pair] = (),
) -> int:
    """Return which of `secrets` signed this request, counted from 1, or 0: none did. Hex in any case, or base64.

    `query` is the raw query string, `body` the raw body, `multipart_fields` its decoded text fields.
    """
    given = _digest(signature)
    if given is None:
        return 0
    tried: set[bytes] = set()
    is_usual = form == "json" and not query
    for candidate in [body] if is_usual else _strings_to_sign(body, query, form, multipart_fields):
        if candidate in tried:
            continue
        tried.add(candidate)
        digests = [hmac.digest(secret.encode(), candidate, "sha256") for secret in secrets]
        # Every secret is compared, in constant time; how long it takes tells which reading fits, and nothing more.
        matches = [hmac.compare_digest(given, digest) for digest in digests]
        if any(matches):
            return matches.index(True) + 1
    return 0


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


def _strings_to_sign(body: bytes, query: bytes, form: BodyForm, fields: Sequence[Pair]) -> Iterator[bytes]:
    for query_pairs in _readings(query):
        match form:
            case "json":
                for ordered in _orders(query_pairs):
                    yield _written(ordered) + body
            case "form":
                for form_pairs in _readings(body):
                    for ordered in _orders([*query_pairs, *form_pairs]):
                        yield _written(ordered)
            case "multipart":
                for ordered in _orders([*query_pairs, *fields]):
                    yield _written(ordered)
                for ordered in _orders(query_pairs):
                    yield _written(ordered) + body


def _readings(encoded: bytes) -> Iterator[list[Pair]]:
    """Yield the pairs of a url-encoded string: a `+` read as a space, then, where that matters, as a plus sign."""
    if encoded.count(b"&") >= _MOST_PAIRS:
        return
    text = encoded.decode("utf-8", "replace")
    yield parse_qsl(text, keep_blank_values=True)
    if "+" in text:
        yield [
            (unquote(key), unquote(value))
            for key, _, value in (part.partition("=") for part in text.split("&") if part)
        ]


def _orders(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Yield the orders that "alphabetical by key" may mean."""
    yield sorted(pairs)
    yield sorted(pairs, key=lambda pair: pair[0])
    yield sorted(pairs, key=lambda pair: pair[0].casefold())


def _written(pairs: Sequence[Pair]) -> bytes:
    # An empty value adds nothing after its key, so keeping or dropping it differs only by the key itself.
    return "".join(key + value for key, value in pairs).encode("utf-8", "surrogatepass")
