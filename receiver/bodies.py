"""The limits of a request's body, in bytes and seconds together, for the API and the console."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

_SECONDS = 15.0


def bounded(receive: Receive, *, most_bytes: int, seconds: float = _SECONDS) -> Receive:
    """Return what receives a body up to its limits, counted from now; after it, whatever else comes.

    It raises HTTPException: 408, the body did not arrive in time; 413, it is too large.
    """
    left = most_bytes
    deadline = asyncio.get_running_loop().time() + seconds
    is_complete = False

    async def within_limits() -> Message:
        nonlocal left, is_complete
        if is_complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time.") from None
        left -= len(message.get("body", b""))
        if left < 0:
            text = f"A body here has at most {most_bytes:,} bytes."
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        is_complete = not message.get("more_body", False)
        return message

    return within_limits
