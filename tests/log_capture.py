"""The log configuration of a service inside a test. The old configuration is restored afterwards."""

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from runtime.logs import LIBRARY_LEVELS, configure_logs


@contextmanager
def captured_logs(level: str = "DEBUG", **options: Any) -> Iterator[io.StringIO]:
    """Yield the stream of a service's log lines; `options` are those of runtime.logs.configure_logs."""
    root = logging.getLogger()
    handlers, root_level, configuration = root.handlers[:], root.level, structlog.get_config()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    stream = io.StringIO()
    try:
        configure_logs(level, **{"service": "test", "instance": "here:1", "stream": stream, **options})
        yield stream
    finally:
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        structlog.configure(**configuration)
        root.handlers[:] = handlers
        root.setLevel(root_level)
        for name in LIBRARY_LEVELS:
            logging.getLogger(name).setLevel(logging.NOTSET)
