"""Structured logs: one line per unit of work, ours and the libraries' through one formatter."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

# They log a line per request or per message, or a whole URL with its query; ours say it better.
_NOISY = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    # It sets a level of its own, below the one asked for.
    "psycopg": logging.WARNING,
}


def configure(
    log_format: Literal["json", "console"], level: str, *, process: str, stream: TextIO | None = None
) -> None:
    """Send every log line to standard output, or `stream`, as JSON or as columns for people.

    `process` (web, worker, clock…) is added to each line. Safe to call again.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _drop_colours,
        _drop_nothing,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Local variables in tracebacks would carry tokens and bodies into the log: neither form shows them.
    if log_format == "json":
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ending: list[Processor] = [
            structlog.processors.ExceptionRenderer(transformer),
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        ending = [
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _name_process(process), *ending],
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quietest in _NOISY.items():
        logging.getLogger(name).setLevel(max(quietest, root.level))


def _drop_nothing(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: value for key, value in event.items() if value is not None}


def _drop_colours(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # uvicorn sends each of its messages a second time, with terminal codes in it.
    event.pop("color_message", None)
    return event


def _name_process(process: str) -> Processor:
    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("process", process)
        return event

    return add


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one module; the event name of a line is constant and in the past tense."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
