"""`python -m tests.hanging_service NAME WHERE`: a service that gets stuck as soon as it has work.

WHERE is `handler` (its thread waits for ever), `loop` (its event loop does) or `interpreter` (a call of C that holds
the interpreter's lock never comes back, so that no thread of Python runs again).
"""

import ctypes
import sys
import threading

from domain.topics import Topics
from ops.cli.context import running_ledger
from ops.cli.observed import observed
from ops.cli.services import run_posting, run_relay
from streams.fenced import _Runner


def wait_for_ever(_: object = None) -> bool:
    """As a call that never returns."""
    return threading.Event().wait()


def hold_the_interpreter(_: str) -> None:
    """PyDLL keeps the lock, where CDLL lets go of it."""
    ctypes.PyDLL(None).pause()


def main() -> None:
    """Run it."""
    name, where = sys.argv[1:]
    ledger = running_ledger()
    faults = {"handler": wait_for_ever, "interpreter": hold_the_interpreter, "loop": lambda _: None}
    if where == "loop":
        # Asked by a timer of the loop; not before the worker has lanes, as from then on it is watched.
        _Runner.busy = property(lambda runner: bool(runner.expected) and wait_for_ever())  # type: ignore[assignment]
    run = {"posting": run_posting, "relay": run_relay}[name]
    with observed(name, ledger):
        run(ledger, Topics(ledger.settings.topic_prefix), faults[where])


if __name__ == "__main__":
    main()
