"""Each line of a service's log is JSON with the same fields, from our code and from libraries, and appears once."""

import io
import json
import logging
import sys
import threading
import warnings
from typing import Any

import pytest
import structlog

from runtime import logs, tracing
from tests.log_capture import captured_logs

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def told(stream: Any) -> list[dict[str, Any]]:
    """Return the lines so far. Each must be JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_lines_and_those_of_libraries_have_the_same_fields() -> None:
    with captured_logs() as stream:
        structlog.get_logger("streams.fenced").warning("waiting", cause="Kafka is away.", nothing=None)
        logging.getLogger("aiokafka.conn").warning("Unable connect to node with id %s", 3)
    ours, theirs = told(stream)
    assert ours.pop("cause") == "Kafka is away."
    assert ours.keys() == theirs.keys() == {"time", "level", "logger", "event", "service", "instance"}
    assert (theirs["event"], theirs["logger"], theirs["level"]) == (
        "Unable connect to node with id 3", "aiokafka.conn", "warning",
    )  # fmt: skip
    assert (ours["service"], ours["instance"]) == ("test", "here:1")
    assert ours["time"].endswith("Z")


def test_a_line_has_the_ids_of_what_is_worked_on() -> None:
    with captured_logs() as stream:
        log = structlog.get_logger("ours")
        log.info("before")
        token = tracing.current.set(tracing.Trace("order-1", TRACEPARENT, has_span=True))
        log.info("ours")
        logging.getLogger("theirs").info("theirs")
        log.info("of another", correlation_id="order-2")
        tracing.current.set(tracing.Trace("order-1", TRACEPARENT))
        log.info("of the caller's span")
        tracing.current.reset(token)
    before, ours, theirs, other, caller = told(stream)
    assert "trace_id" not in before
    for line in (ours, theirs):
        assert line["correlation_id"] == "order-1"
        assert (line["trace_id"], line["span_id"]) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert other["correlation_id"] == "order-2"
    assert caller["trace_id"] == TRACEPARENT[3:35]
    assert "span_id" not in caller


def test_an_error_is_one_line_with_its_traceback_and_no_local_variable() -> None:
    def post(amount: str) -> None:
        try:
            raise OSError(f"{len(amount)} are too many")
        except OSError as error:
            raise ValueError("no good") from error

    with captured_logs() as stream:
        try:
            post("".join(("9", "8", "7")))
        except ValueError:
            structlog.get_logger("ours").exception("isolated", lane=3)
    (line,) = told(stream)
    assert [(raised["exc_type"], raised["exc_value"]) for raised in line["exception"]] == [
        ("ValueError", "no good"),
        ("OSError", "3 are too many"),
    ]
    assert line["exception"][0]["frames"][-1]["name"] == "post"
    assert "987" not in stream.getvalue()


def test_what_nobody_caught_is_a_line_too() -> None:
    with captured_logs() as stream:

        def fail() -> None:
            raise KeyError("in a thread")

        thread = threading.Thread(target=fail, name="worker")
        thread.start()
        thread.join()
        try:
            raise ValueError("at the top")
        except ValueError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    thread_line, top_line, warning_line = told(stream)
    assert (thread_line["event"], thread_line["level"], thread_line["thread"]) == ("uncaught", "critical", "worker")
    assert top_line["exception"][0]["exc_value"] == "at the top"
    assert "old" in warning_line["event"]
    assert warning_line["logger"] == "py.warnings"


def test_a_library_that_repeats_itself_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    with captured_logs() as stream:
        library, ours = logging.getLogger("aiokafka.cluster"), structlog.get_logger("ours")
        for number in range(50):
            library.error("Topic %s not found", number)
            library.warning("Heartbeat failed")
            ours.warning("waiting", seconds=number)
            library.debug("poll")
        now += logs.REPEAT_SECONDS
        library.error("Topic %s not found", 50)
    events = [(line["event"], line.get("repeated")) for line in told(stream) if line["level"] in ("error", "warning")]
    assert [event for event in events if event[0].startswith("Topic")] == [
        ("Topic 0 not found", None),
        ("Topic 50 not found", 49),
    ]
    assert events.count(("Heartbeat failed", None)) == 1
    assert events.count(("waiting", None)) == 50


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_libraries_tell_only_what_matters_unless_asked(level: str) -> None:
    with captured_logs(level) as stream:
        quiet = ["aiokafka.consumer.group_coordinator", "faust.transport.x", "mode.services.x", "psycopg.pool.x"]
        for name in quiet:
            logging.getLogger(name).info("each second")
        logging.getLogger("uvicorn.error").info("Started server process")
    assert [line["logger"] for line in told(stream)] == [*(quiet if level == "DEBUG" else []), "uvicorn.error"]


@pytest.mark.parametrize(("log_format", "on_terminal", "readable"), [
    ("auto", True, True), ("auto", False, False), ("json", True, False), ("console", False, True),
])  # fmt: skip
def test_people_are_shown_lines_for_people(log_format: str, on_terminal: bool, readable: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return on_terminal

    stream = Stream()
    with captured_logs(log_format=log_format, stream=stream, secrets=["s3cret-s3cret"]):
        structlog.get_logger("ours").error("refused", cause="no s3cret-s3cret")
    line = stream.getvalue()
    assert line.startswith("{") is not readable
    assert "refused" in line
    assert "s3cret" not in line
