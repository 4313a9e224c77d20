"""A head and its body leave in one write; nothing is held for longer, reordered or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from receiver.protocol import JoinedWrites


class Wire(asyncio.Transport):
    """A connection that notes what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


def written(act: Callable[[JoinedWrites], None], *, turns: int = 1) -> tuple[list[bytes], bool]:
    """Return what is written after an act and so many turns of the event loop, and whether the wire is closed."""

    async def run() -> tuple[list[bytes], bool]:
        wire = Wire()
        act(JoinedWrites(wire))
        for _ in range(turns):
            await asyncio.sleep(0)
        return list(wire.written), wire.is_closed

    return asyncio.run(run())


def test_two_writes_become_one_at_once() -> None:
    def act(joined: JoinedWrites) -> None:
        joined.write(b"head")
        joined.write(b"body")

    assert written(act, turns=0) == ([b"headbody"], False)


def test_a_single_write_waits_for_one_turn_of_the_event_loop() -> None:
    assert written(lambda joined: joined.write(b"head"), turns=0) == ([], False)
    assert written(lambda joined: joined.write(b"head"), turns=1) == ([b"head"], False)


def test_closing_sends_what_is_held_first_and_aborting_drops_it() -> None:
    def close(joined: JoinedWrites) -> None:
        joined.write(b"head")
        joined.close()

    def abort(joined: JoinedWrites) -> None:
        joined.write(b"head")
        joined.abort()

    assert written(close, turns=0) == ([b"head"], True)
    assert written(abort) == ([], True)


@given(st.lists(st.one_of(st.binary(max_size=5), st.none()), max_size=20))
def test_whatever_is_written_arrives_in_order_and_no_more_than_one_write_is_held(steps: list[bytes | None]) -> None:
    """None is a turn of the event loop."""

    async def run() -> None:
        wire, sent = Wire(), b""
        joined = JoinedWrites(wire)
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
                assert b"".join(wire.written) == sent
            else:
                sent += step
                joined.write(step)
                assert len(sent) - len(b"".join(wire.written)) <= len(step)
        joined.close()
        assert b"".join(wire.written) == sent

    asyncio.run(run())
