"""One reader holds the bodies of API and console to their bytes and seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from receiver import bodies


def sent(messages: Iterable[Message], *, then_silence: bool = False) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        message = next(left, None)
        if message is None and then_silence:
            await asyncio.Event().wait()
        return message or {"type": "http.disconnect"}

    return receive


def pieces(*texts: bytes, is_complete: bool = True) -> list[Message]:
    last = len(texts) - 1 if is_complete else None
    return [{"type": "http.request", "body": text, "more_body": n != last} for n, text in enumerate(texts)]


def read(receive: Receive, *, most_bytes: int = 10, seconds: float = 5.0) -> bytes:
    async def whole() -> bytes:
        limited = bodies.bounded(receive, most_bytes=most_bytes, seconds=seconds)
        return await Request({"type": "http", "method": "POST", "headers": []}, limited).body()

    return asyncio.run(whole())


def test_a_body_of_exactly_the_most_bytes_is_read_in_however_many_pieces() -> None:
    assert read(sent(pieces(b"0123", b"", b"456789"))) == b"0123456789"
    assert read(sent(pieces(b""))) == b""


def test_one_byte_more_is_refused_before_the_rest_of_the_body_has_come() -> None:
    with pytest.raises(HTTPException, match="at most 10 bytes") as refused:
        read(sent(pieces(b"0123456789", b"x", is_complete=False), then_silence=True))
    assert refused.value.status_code == 413


@pytest.mark.parametrize("begun", [[], pieces(b"0", b"1", is_complete=False)])
def test_a_body_that_stops_coming_is_refused_when_its_time_is_over(begun: list[Message]) -> None:
    with pytest.raises(HTTPException, match="in time") as refused:
        read(sent(begun, then_silence=True), seconds=0.02)
    assert refused.value.status_code == 408


def test_the_time_is_for_the_whole_body_not_for_each_piece() -> None:
    async def drip() -> Message:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(HTTPException, match="in time"):
        read(drip, seconds=0.05)


def test_a_body_that_is_cut_off_is_told_from_one_that_is_complete() -> None:
    with pytest.raises(ClientDisconnect):
        read(sent(pieces(b"0", is_complete=False)))


def test_what_comes_after_a_body_has_no_limits() -> None:
    async def after() -> Message:
        limited = bodies.bounded(sent(pieces(b"0")), most_bytes=1, seconds=0.0001)
        await limited()
        await asyncio.sleep(0.001)
        return await limited()

    assert asyncio.run(after())["type"] == "http.disconnect"
