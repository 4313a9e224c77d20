"""Zoho's webhook signature, written from its documentation and from nothing else in this project."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, TypeAlias

SIGNATURE_HEADER: Final = "X-Zoho-Webhook-Signature"

Pairs: TypeAlias = Sequence[tuple[str, str]]


class SignatureEncoding(StrEnum):
    """How the digest is written; Zoho does not say, integrators found lowercase hex."""

    HEX = "hex"
    HEX_UPPER = "hex_upper"
    BASE64 = "base64"


def sign(
    secret: str,
    *,
    query: Pairs = (),
    form: Pairs = (),
    raw: bytes = b"",
    encoding: SignatureEncoding = SignatureEncoding.HEX,
) -> str:
    """Sign a delivery: decoded query and form pairs sorted by key, run together, then the raw JSON.

    Source: Zoho Billing's knowledge base, "Securing webhooks".
    """
    pairs = "".join(key + value for key, value in sorted([*query, *form]))
    digest = hmac.new(secret.encode(), pairs.encode() + raw, hashlib.sha256).digest()
    match encoding:
        case SignatureEncoding.HEX:
            return digest.hex()
        case SignatureEncoding.HEX_UPPER:
            return digest.hex().upper()
        case SignatureEncoding.BASE64:
            return base64.b64encode(digest).decode()
