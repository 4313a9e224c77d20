"""Structured logs: one line per unit of work, ours and the libraries' through one formatter.

What anybody may cause to be logged is limited (`LIMITED`), and no line holds a secret of the settings.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

from processors.redaction import redact

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


LIMITED = frozenset(
    {
        "api.postgres_lost",
        "connection.dropped",
        "delivery.broken_off",
        "delivery.rejected",
        "sender.throttled",
        "sign_in.failed",
        "sign_in.throttled",
    }
)
"""The events of ours that need no signature, session or token: of each, `MOST_LINES` are written in a minute.

The lines of libraries are limited in the same way, by logger and level: a server logs each request that it cannot read
and each connection that it cannot accept. What operators and signed deliveries do is never left out.
"""

MOST_LINES = 100
_WINDOW_SECONDS = 60.0
# A name, an address or a path that a stranger makes up.
_MOST_CHARACTERS = 200

_observers: list[Processor] = []


@dataclass(slots=True)
class _Window:
    began_at: float
    lines: int = 0
    reported: int = 0

    def take_left_out(self) -> int:
        """Return how many lines were left out that nobody was told of."""
        left_out = max(self.lines - MOST_LINES, 0) - self.reported
        self.reported += left_out
        return left_out


class Limit:
    """Lets `MOST_LINES` lines of each kind through in a minute, and reports at its end how many it left out."""

    def __init__(self, seconds: float = _WINDOW_SECONDS) -> None:
        """Begin with no lines; `seconds` is the length of a window."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def admits(self, kind: str) -> bool:
        """Count a line, and tell whether to write it."""
        now = time.monotonic()
        with self._lock:
            window, former = self._windows.get(kind), None
            if window is None or now - window.began_at >= self._seconds:
                former, window = window, _Window(now)
                self._windows[kind] = window
            window.lines += 1
            is_first_left_out = window.lines == MOST_LINES + 1
            is_admitted = window.lines <= MOST_LINES
        if former is not None:
            _report(kind, former.take_left_out())
        if is_first_left_out:
            # A flood that ends is reported as well.
            timer = threading.Timer(self._seconds, self.report)
            timer.daemon = True
            timer.start()
        return is_admitted

    def report(self) -> None:
        """Say how many lines were left out since this was said last."""
        with self._lock:
            left_out = [(kind, window.take_left_out()) for kind, window in self._windows.items()]
        for kind, count in left_out:
            _report(kind, count)


def _report(kind: str, count: int) -> None:
    if count:
        _log.warning("lines.left_out", of=kind, count=count)


_limit = Limit()


def within_limit(kind: str) -> bool:
    """Count a line of a kind that anybody may cause, and tell whether this process should still write it."""
    return _limit.admits(kind)


@atexit.register
def _report_at_the_end() -> None:
    _limit.report()


def configure(
    log_format: Literal["json", "console"], level: str, *, process: str, stream: TextIO | None = None
) -> None:
    """Send every log line to standard output, or `stream`, as JSON or as columns for people.

    `process` (web, worker, clock…) is added to each line. Safe to call again; the limit begins anew.
    """
    global _limit  # noqa: PLW0603 - one for each process, as the stream
    _limit = Limit()
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
        ending: list[Any] = [
            structlog.processors.ExceptionRenderer(transformer),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        ending = [
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    ending.append(_redact)
    level_number = logging.getLevelNamesMapping()[level.upper()]
    # Ours are written without a turn through `logging`: there a line costs three times as much, and web writes one for
    # each delivery.
    structlog.configure(
        processors=[_limit_lines, *shared, _observe, *ending],
        logger_factory=partial(_StreamLogger, stream),
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_colours, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(_limit_records)
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


def _limit_lines(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    kind = event["event"]
    if kind not in LIMITED:
        return event
    if not within_limit(kind):
        raise structlog.DropEvent
    return {key: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for key, value in event.items()}


def _limit_records(record: logging.LogRecord) -> bool:
    return within_limit(f"{record.name} {record.levelname.lower()}")


def _redact(_logger: object, _method: str, line: str) -> str:
    return redact(line)


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


_log = get(__name__)
