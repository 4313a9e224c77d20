"""Who sends a request: one reading of an address, however a proxy writes it, and one way to count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from processors import senders
from processors.settings import Settings
from receiver.proxies import client_address


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("203.0.113.7:51234", "203.0.113.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ('"[2001:db8::7]:443"', "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
        ("64:ff9b::203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        *[
            (nothing, "None")
            for nothing in (
                "", " ", "unknown", "_hidden", "-", "203.0.113", "203.0.113.7/32", "203.0.113.7:", "203.0.113.7:x",
                "203.0.113.256", "0x7f.1", "010.0.0.1", "[203.0.113.7", "[]", "[]:80", "::1]", "127.0.0.1\0",
                "x" * 10_000, "٢٠٣.0.113.7", "1" * 4_000 + ".1.1.1",
            )
        ],
    ],
)  # fmt: skip
def test_an_address_is_read_however_it_is_written(written: str, read: str) -> None:
    assert str(senders.address_of(written)) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("64:ff9b::10.0.0.0/104", "10.0.0.0/8"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_an_allowed_network_holds_the_addresses_that_are_read_from_its_spelling(written: str, read: str) -> None:
    (network,) = Settings.load(environ={"WEBHOOK_ALLOWED_NETWORKS": written}).webhook_allowed_networks

    assert str(network) == read
    first = senders.address_of(written.partition("/")[0])
    assert first is not None
    assert first in network


@given(st.text() | st.text("0123456789abcdef:.[]%/ ", max_size=60))
def test_whatever_is_written_is_an_address_or_none_and_is_counted_in_little_room(written: str) -> None:
    address = senders.address_of(written)
    assert len(senders.counted_as(written)) <= 100
    if address is not None:
        assert senders.address_of(str(address)) == address
        assert senders.counted_as(str(address)) == senders.counted_as(written)


def test_ipv4_is_counted_by_address_and_ipv6_by_what_one_customer_has() -> None:
    assert senders.counted_as("::ffff:203.0.113.7") == senders.counted_as("203.0.113.7:1") == "203.0.113.7"
    assert senders.counted_as("::ffff:203.0.113.7") != senders.counted_as("::ffff:203.0.113.8")
    assert senders.counted_as("2001:db8::1") == senders.counted_as("[2001:db8::ffff]:2") == "2001:db8::/64"
    assert senders.counted_as("2001:db8::1") != senders.counted_as("2001:db8:0:1::1")


PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("proxies", "lines", "sender"),
    [
        (0, [], PROXY),
        (0, ["203.0.113.7"], PROXY),
        (1, [], PROXY),
        (1, ["203.0.113.7"], "203.0.113.7"),
        (1, ["192.0.2.1, 203.0.113.7:4711"], "203.0.113.7"),
        (1, ["192.0.2.1", "::ffff:203.0.113.7"], "203.0.113.7"),
        (1, ["192.0.2.1,"], PROXY),
        (1, ["192.0.2.1, unknown"], PROXY),
        (2, ["203.0.113.7"], PROXY),
        (2, ["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (2, ["192.0.2.1, 203.0.113.7", "10.0.0.2"], "203.0.113.7"),
        # Made up by the sender, where fewer proxies stand in front than are counted: what a proxy wrote counts.
        (2, ["made up, 203.0.113.7"], "203.0.113.7"),
        (3, [",,203.0.113.7"], "203.0.113.7"),
    ],
)
def test_the_sender_is_the_hop_that_the_farthest_trusted_proxy_saw(proxies: int, lines: list[str], sender: str) -> None:
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    scope = {"type": "http", "client": (f"::ffff:{PROXY}", 1), "headers": headers}
    assert client_address(HTTPConnection(scope), proxies) == sender


def test_a_socket_without_addresses_has_no_sender() -> None:
    for client in (None, ("", 0), ("unix:", 0)):
        assert client_address(HTTPConnection({"type": "http", "client": client, "headers": []}), 0) is None
