"""The simulated Zoho over HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from simulator import control_routes, inventory_routes, oauth_routes, settings_routes
from simulator.gate import Gate
from simulator.life import Editor
from simulator.limits import Refusal
from simulator.responses import refused
from simulator.zoho import Zoho

_STARTING_SECONDS: Final = 10.0
_STOPPING_SECONDS: Final = 2


def create_app(zoho: Zoho) -> Starlette:
    """Build the application: accounts server, Items API and the simulator's controls on one host."""
    app = Starlette(
        routes=[*oauth_routes.ROUTES, *inventory_routes.ROUTES, *settings_routes.ROUTES, *control_routes.ROUTES],
        middleware=[Middleware(Gate, zoho=zoho)],
        exception_handlers={404: _not_found, 405: _method_not_allowed},
    )
    app.state.zoho = zoho
    app.state.editor = Editor(zoho.catalogue)
    return app


@contextmanager
def serve(zoho: Zoho, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Run `zoho` on a real port in a background thread, and give its base URL; port 0 takes a free one.

    On the way out its deliveries are closed too.

    Raises:
        OSError: the port is taken.
    """
    with socket.create_server((host, port)) as listener:
        config = uvicorn.Config(
            create_app(zoho),
            log_level="critical",  # dropped connections are part of the play, not news
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_STOPPING_SECONDS,
        )
        server = _AnnouncedServer(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="simulator", daemon=True)
        thread.start()
        try:
            if not server.is_ready.wait(_STARTING_SECONDS):
                raise RuntimeError("the simulator did not start; its thread's traceback says why")
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            zoho.deliveries.close()


class _AnnouncedServer(uvicorn.Server):
    """Says when it is ready, so that nobody has to poll for it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_ready.set()


async def _not_found(_: Request, __: Exception) -> Response:
    return refused(Refusal(404, 5, "Invalid URL Passed"))


async def _method_not_allowed(_: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, HTTPException) else None
    refusal = Refusal(405, 37, "The HTTP method is not allowed for the requested resource")
    return refused(refusal, headers=headers)
