"""Zoho's signature: the documented vectors, every reading of what the documentation leaves open, and nothing else."""

from __future__ import annotations

import base64
import hmac
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from processors.zoho import signatures
from processors.zoho.signatures import Pair, sign, verify

SECRET = "mysecretkey12"
EXAMPLE = b'{"created_date":"2019-03-06","event_id":"5675"}'

secrets = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=12, max_size=50)
bodies = st.binary(max_size=300)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.from_regex(r"[a-zA-Zé_][\w .-]{0,12}", fullmatch=True)
pair_lists = st.lists(st.tuples(names, words), max_size=6)


def test_the_vectors_of_the_fact_sheet() -> None:
    assert sign(SECRET, body=b'{"test":true}') == "beeba5fe977923913952d4d245be79be8daaea0e1d7c2785731491518b098653"
    documented = "ec0357bb87b946f9b88f3d80899810913dfbc310ada921e1d1e25575d5f63ee9"
    assert sign(SECRET, body=EXAMPLE, pairs=[("subscription_id", "90343"), ("name", "basic")]) == documented
    assert verify(documented, [SECRET], body=EXAMPLE, query=b"subscription_id=90343&name=basic", form="json")
    assert verify(documented, [SECRET], body=EXAMPLE, query=b"name=basic&subscription_id=90343", form="json")


def test_hex_and_base64_are_read_in_every_spelling() -> None:
    digest = bytes.fromhex(sign(SECRET, body=EXAMPLE))
    encoded = base64.b64encode(digest).decode()
    for written in (digest.hex(), digest.hex().upper(), f"  {digest.hex()}\t", encoded, encoded.rstrip("=")):
        assert verify(written, [SECRET], body=EXAMPLE, query=b"", form="json")


@pytest.mark.parametrize(
    "junk", ["", " ", "=", "====", "é" * 64, "\x00" * 64, "0x" + "0" * 62, "a" * 43, "A" * 44, "-_" * 22]
)
def test_what_is_no_digest_matches_nothing(junk: str) -> None:
    assert not verify(junk, [SECRET], body=EXAMPLE, query=b"", form="json")


def test_any_of_several_secrets_may_have_signed_and_no_other() -> None:
    signature = sign(SECRET, body=EXAMPLE)
    for known in ([SECRET], ["another12345", SECRET], [SECRET, "another12345"]):
        assert verify(signature, known, body=EXAMPLE, query=b"", form="json")
    for unknown in ([], ["another12345"], [SECRET.upper()], [SECRET + "1"]):
        assert not verify(signature, unknown, body=EXAMPLE, query=b"", form="json")


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("a1b2", b"b=2&a=1"),
        ("a 1", b"a=+1"),
        ("a+1", b"a=%2B1"),
        ("a+1", b"a=+1"),  # whoever signs before encoding may leave a plus sign as it is
        ("käse€", "käse=€".encode()),
        ("käse€", b"k%C3%A4se=%E2%82%AC"),
        ("ab", b"a=&b="),
        ("ab", b"a&b"),
        ("k1k2", b"k=2&k=1"),
        ("k2k1", b"k=2&k=1"),
        ("B1a2", b"a=2&B=1"),
        ("a2B1", b"a=2&B=1"),
        ('JSONString{"item": {"name": "A & B"}}', b"JSONString=%7B%22item%22%3A+%7B%22name%22%3A+%22A+%26+B%22%7D%7D"),
        ("", b""),
    ],
)
def test_a_form_is_signed_as_its_decoded_pairs_whichever_way_they_are_read(text: str, body: bytes) -> None:
    signature = sign(SECRET, body=text.encode())

    assert verify(signature, [SECRET], body=body, query=b"", form="form")
    assert not verify(signature, [SECRET], body=body + b"x", query=b"", form="form")


def test_the_pairs_of_query_and_form_are_sorted_together() -> None:
    signature = sign(SECRET, body=b"a1b2c3")

    assert verify(signature, [SECRET], body=b"c=3&a=1", query=b"b=2", form="form")
    assert not verify(signature, [SECRET], body=b"c=3&a=1", query=b"b=2", form="json")


def test_a_multipart_body_is_signed_by_its_fields_or_as_it_is() -> None:
    fields: list[Pair] = [("b", "2"), ("a", "1")]
    for text in (b"a1b2q0", b"q0raw"):
        signature = sign(SECRET, body=text)
        assert verify(signature, [SECRET], body=b"raw", query=b"q=0", form="multipart", multipart_fields=fields)
        assert not verify(signature, [SECRET], body=b"row", query=b"q=1", form="multipart", multipart_fields=fields)


@pytest.mark.parametrize("form", ["json", "form", "multipart"])
def test_a_huge_number_of_pairs_is_not_even_looked_at(form: signatures.BodyForm) -> None:
    pairs = b"&".join([b"a=1"] * 3_000)
    signature = sign(SECRET, body=b"a1" * 3_000)

    assert not verify(signature, [SECRET], body=pairs, query=pairs, form=form)
    assert not verify(signature, [SECRET], body=b"", query=pairs, form=form)


@given(secrets, bodies, pair_lists, st.sampled_from([quote_plus, quote]))
def test_a_signed_json_request_always_verifies(secret: str, body: bytes, pairs: list[Pair], how: object) -> None:
    query = urlencode(pairs, quote_via=quote if how is quote else quote_plus).encode()

    assert verify(sign(secret, body=body, pairs=pairs), [secret], body=body, query=query, form="json")


@given(secrets, pair_lists, pair_lists)
def test_a_signed_form_always_verifies(secret: str, query: list[Pair], fields: list[Pair]) -> None:
    signature = sign(secret, pairs=[*query, *fields])
    encoded = urlencode(fields).encode()

    assert verify(signature, [secret], body=encoded, query=urlencode(query).encode(), form="form")
    assert verify(
        signature, [secret], body=b"", query=urlencode(query).encode(), form="multipart", multipart_fields=fields
    )


@given(st.data(), secrets, st.binary(min_size=1, max_size=300), pair_lists, st.integers(1, 255))
def test_a_json_body_with_any_byte_changed_never_verifies(
    data: st.DataObject, secret: str, body: bytes, pairs: list[Pair], flip: int
) -> None:
    signature, query = sign(secret, body=body, pairs=pairs), urlencode(pairs).encode()
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ flip]) + body[place + 1 :]

    assert not verify(signature, [secret], body=changed, query=query, form="json")
    assert not verify(signature, [secret], body=body[:place] + body[place + 1 :], query=query, form="json")
    assert not verify(signature, [secret], body=body + changed[:1], query=query, form="json")


@given(st.data(), secrets, bodies, st.integers(1, 255))
def test_a_signature_or_secret_with_any_part_changed_never_verifies(
    data: st.DataObject, secret: str, body: bytes, flip: int
) -> None:
    digest = bytes.fromhex(sign(secret, body=body))
    place = data.draw(st.integers(0, 31))
    changed = digest[:place] + bytes([digest[place] ^ flip]) + digest[place + 1 :]

    for written in (changed.hex(), base64.b64encode(changed).decode(), digest.hex()[:-1], digest[:-1].hex()):
        assert not verify(written, [secret], body=body, query=b"", form="json")
    assert not verify(digest.hex(), [secret + "0"], body=body, query=b"", form="json")


@given(secrets, pair_lists.filter(len), words)
def test_a_form_with_a_changed_value_never_verifies(secret: str, pairs: list[Pair], value: str) -> None:
    changed = [(pairs[0][0], value), *pairs[1:]]
    texts = ["".join(sorted(key + value for key, value in some)) for some in (pairs, changed)]
    # By Zoho's rule itself "ab" and "c" are signed as "a" and "bc" are: other pairs may be the same text.
    assume(sorted(texts[0]) != sorted(texts[1]))
    assume("+" not in "".join(texts))
    assume(" " not in "".join(texts))

    assert not verify(sign(secret, pairs=pairs), [secret], body=urlencode(changed).encode(), query=b"", form="form")


@given(st.text(), st.binary(max_size=200), st.binary(max_size=200), pair_lists)
def test_nothing_that_is_sent_without_the_secret_verifies_or_fails(
    signature: str, body: bytes, query: bytes, fields: list[Pair]
) -> None:
    forms: tuple[signatures.BodyForm, ...] = ("json", "form", "multipart")
    for form in forms:
        assert not verify(signature, [SECRET], body=body, query=query, form=form, multipart_fields=fields)


@pytest.mark.parametrize(("form", "most"), [("json", 6), ("form", 8), ("multipart", 8)])
def test_whatever_nobody_signed_costs_a_fixed_number_of_hashes(
    form: signatures.BodyForm, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []
    digest = hmac.digest

    def count(key: bytes, text: bytes, name: str) -> bytes:
        hashed.append(text)
        return digest(key, text, name)

    monkeypatch.setattr(hmac, "digest", count)
    pairs = b"&".join([b"a=+2&a=+1", b"B=%2B", b"b=+"] * 12)
    fields: list[Pair] = [("a", "2"), ("a", "1"), ("B", "")]

    assert not verify("ab" * 32, [SECRET], body=pairs, query=pairs, form=form, multipart_fields=fields)

    assert 1 < len(hashed) <= most


def test_a_long_query_or_one_of_many_pairs_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(signatures, "pairs_of", fail)
    for query in (b"a=" + b"1" * signatures.MOST_QUERY_BYTES, b"&".join([b"a=1"] * (signatures.MOST_PAIRS + 1))):
        assert not verify("ab" * 32, [SECRET], body=b"{}", query=query, form="json")
