"""A flood of unsigned requests, a process of its own: `python -m tests.benchmarks.flood PORT`.

It sends them over 64 connections that stay open, each as fast as answers come, until its standard input ends; then it
prints how many were answered, and in how many seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

from tests.benchmarks import bodies

_CONNECTIONS = 64


async def _flood(port: int) -> tuple[int, float]:
    content = bodies.body(0, 0)
    head = f"POST {bodies.ITEMS_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {bodies.CONTENT_TYPE}\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    answered = 0

    async def send() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            # Who is refused much is told so, soon.
            assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 429 ")), answer
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            answered += 1
            if b"\r\nconnection: close\r\n" in answer.lower():
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)

    started = perf_counter()
    senders = [asyncio.create_task(send()) for _ in range(_CONNECTIONS)]
    await asyncio.to_thread(sys.stdin.read)
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    return answered, perf_counter() - started


if __name__ == "__main__":
    count, seconds = asyncio.run(_flood(int(sys.argv[1])))
    sys.stdout.write(json.dumps({"answered": count, "seconds": seconds}))
