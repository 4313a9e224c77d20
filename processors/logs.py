"""Structured logs: one line per unit of work, ours and the libraries' through one formatter."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

# They log a line per request or per message, or a whole URL with its query; ours say it better.
NOISY = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    # It tells of one failed connection in seven lines, all of them errors.
    "pika": logging.CRITICAL,
    # It sets a level of its own, below the one asked for.
    "psycopg": logging.WARNING,
}


_observers: list[Processor] = []


def configure(
    log_format: Literal["json", "console"], level: str, *, process: str, stream: TextIO | None = None
) -> None:
    """Send every log line to standard output, or `stream`, as JSON or as columns for people.

    `process` (web, worker, clock…) is added to each line. Safe to call again.
    """
    stream = stream or sys.stdout
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _drop_nothing,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_process(process),
    ]
    # Local variables in tracebacks would carry tokens and bodies into the log: neither form shows them.
    if log_format == "json":
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ending: list[Processor] = [
            structlog.processors.ExceptionRenderer(transformer),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        ending = [
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    level_number = logging.getLevelNamesMapping()[level.upper()]
    # Ours are written without a turn through `logging`: there a line costs three times as much, and web writes one for
    # each delivery.
    structlog.configure(
        processors=[*shared, _observe, *ending],
        logger_factory=partial(_StreamLogger, stream),
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_colours, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_number)
    for name, quietest in NOISY.items():
        logging.getLogger(name).setLevel(max(quietest, root.level))


class _StreamLogger:
    """Writes the lines of one module, each in one piece: threads write at the same time."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        # A reader of the log that went away must not cost a delivery; `logging` takes it as lightly.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


# The one of json.dumps is made anew for each line.
_encode_json = json.JSONEncoder(default=str).encode


def _to_json(event: object, **_options: object) -> str:
    return _encode_json(event)


def observe(observer: Processor) -> None:
    """Let each of our lines pass by `observer`, too, before it is written."""
    _observers.append(observer)


def _observe(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for observer in _observers:
        observer(logger, method, event)
    return event


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


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of one module; the event name of a line is constant and in the past tense."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger
