"""Logs: one format and one configuration for our own lines and those of Faust, uvicorn, aiokafka, psycopg and Python.

docs/LOGS_AND_TRACES.md says which fields a line has.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, TextIO

import structlog

from runtime import tracing
from runtime.outside_text import make_printable
from runtime.redaction import Redactor

logger: Final = structlog.get_logger(__name__)

REPEAT_SECONDS: Final = 30.0
"""A warning or error that a library repeats is written once in this time."""
_REPEATS_KEPT_MAX: Final = 1000
_FRAMES_MAX: Final = 20
_FIELDS_OF_LINES: Final = frozenset({"exception", "stack"})

LIBRARY_LEVELS: Final = {
    # These log each poll, each heartbeat and each metadata request; what matters comes as a warning.
    "aiokafka": logging.WARNING,
    "asyncio": logging.WARNING,
    "faust": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "mode": logging.WARNING,
    # It warns of each chore that waited for a part that was away; the agent logs that itself.
    "mode.timers": logging.ERROR,
    # Faust logs under the name of the module that has the subclass of its class.
    "streams.engine": logging.WARNING,
    "streams.fenced": logging.INFO,
    "urllib3": logging.WARNING,
    # It logs each connection even if nothing is wrong; the API logs failures itself (api/postgres_watch.py).
    "psycopg.pool": logging.ERROR,
}
"""The lowest level that is logged of libraries that log more than an operator wants. DEBUG overrides it."""


class _Repeats(logging.Filter):
    """Passes a library's warning or error once in REPEAT_SECONDS, and adds how often it was held back meanwhile.

    Our own lines always pass: our code that repeats a line waits longer each time (back-off).
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict) or record.levelno < logging.WARNING:
            return True
        key = (record.name, record.levelno, str(record.msg))
        now = time.monotonic()
        with self._lock:
            since, times = self._said.get(key, (0.0, 0))
            if since and now - since < REPEAT_SECONDS:
                self._said[key] = (since, times + 1)
                return False
            if len(self._said) >= _REPEATS_KEPT_MAX:
                self._said.clear()
            self._said[key] = (now, 0)
        if times:
            record.repeated = times
        return True


def _add_repeats(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record = event.get("_record")
    repeated = getattr(record, "repeated", None)
    if repeated is not None:
        event["repeated"] = repeated
    return event


def _add_trace(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the ids that tie the line to a request or a batch: correlation_id, trace_id and span_id, if there are any."""
    for name, value in tracing.get_log_fields().items():
        event.setdefault(name, value)
    return event


def _drop_absent(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave out the fields that are None, so that one logging call serves whether a value is known or not."""
    return {name: value for name, value in event.items() if value is not None}


def _make_printable(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what could control the terminal or begin a new line in any field; a traceback keeps its line ends."""
    return {
        make_printable(name): _escape(value, kept="\n" if name in _FIELDS_OF_LINES else "")
        for name, value in event.items()
    }


def _escape(value: Any, *, kept: str = "") -> Any:
    if isinstance(value, str):
        return make_printable(value, kept=kept)
    if isinstance(value, dict):
        return {make_printable(str(name)): _escape(inner) for name, inner in value.items()}
    return [_escape(inner) for inner in value] if isinstance(value, list) else value


class _AddSource:
    """Adds to each line the process that logged it: its service and its instance."""

    def __init__(self, service: str, instance: str) -> None:
        self._fields = {"service": service, "instance": instance}

    def __call__(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.update(self._fields)
        return event


def get_instance_name(port: int) -> str:
    """Return an instance's name: host and port, as a scraper knows it, or host and process id if the port is 0."""
    return f"{socket.gethostname()}:{port or os.getpid()}"


def is_readable_wanted(log_format: str, stream: TextIO) -> bool:
    """Return whether to write for people: the format is `console`, or it is `auto` and the stream is a terminal."""
    return log_format == "console" or (log_format == "auto" and stream.isatty())


def configure_logs(
    level: str,
    *,
    service: str,
    instance: str,
    log_format: str = "json",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Log one line for each event to standard error: ours, the libraries', warnings, and uncaught exceptions.

    `log_format` is json, console (for people) or auto (console on a terminal); `secrets` are values that no line may
    show, whoever logs them.
    """
    stream = stream or sys.stderr
    redactor = Redactor(secrets)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _AddSource(service, instance),
        _add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                _add_repeats,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _drop_absent,
                *_make_last_processors(redactor, is_readable=is_readable_wanted(log_format, stream)),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name, lowest in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else lowest)
    _take_what_nobody_caught()


def _make_last_processors(redactor: Redactor, *, is_readable: bool) -> list[structlog.typing.Processor]:
    """Return the processors that turn fields into a line. Tracebacks omit local variables, which hold intents' data."""
    if is_readable:
        plain = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        return [structlog.processors.format_exc_info, redactor, _make_printable, plain]
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_FRAMES_MAX)
    # JSON's own escapes are enough: the line is ASCII, and a reader that decodes it gets the original text.
    return [structlog.processors.ExceptionRenderer(frames), redactor, structlog.processors.JSONRenderer(default=repr)]


def _take_what_nobody_caught() -> None:
    """Log warnings, and exceptions that the interpreter would print, in the same form."""
    logging.captureWarnings(True)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        logger.critical("uncaught", exc_info=(kind, error, trace))

    def uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not None and not isinstance(given.exc_value, SystemExit):
            name = given.thread.name if given.thread is not None else "unknown"
            logger.critical("uncaught", thread=name, exc_info=(given.exc_type, given.exc_value, given.exc_traceback))

    def unraisable(given: Any) -> None:
        error = given.exc_value
        said = given.err_msg or "ignored"
        logger.error("unraisable", said=said, exc_info=(given.exc_type, error, given.exc_traceback) if error else None)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable
