"""One service of Ledgerline that can be told, while it runs, to die at its next fault point.

`python -m tools.chaos.service NAME --orders FOLDER` is `ledgerline service NAME` with a function at its fault points
(runtime.faults). The function looks in the folder for an order: a file with the name of the fault point, whose content
is the action. If the folder has a file `clock` at the start, the file says by how many seconds the process's clock is
wrong; the number may change later.
"""

import argparse
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import time_machine

from cli.commands.services import RUNNERS, run_api, run_posting, run_relay, run_worker
from cli.context import Ledger, find_running_ledger
from cli.observed import observe
from domain.topics import Topics
from runtime.faults import Fault

CLOCK: Final = "clock"
CLOCK_LOOK_SECONDS: Final = 0.2


ACTIONS: Final[dict[str, Callable[[], None]]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def obeying(orders: Path) -> Fault:
    """Return a fault that carries out the orders in the folder, each order once."""

    def fault(point: str) -> None:
        order = orders / point
        try:
            action = order.read_text()
            order.unlink()
        except FileNotFoundError:
            return
        ACTIONS[action]()

    return fault


def follow_clock(file: Path) -> None:
    """Shift Python's wall clock from now on by the seconds in the file; clocks that measure durations stay right."""
    shown = file.read_text()
    traveller = time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(shown)), tick=True).start()

    def follow() -> None:
        nonlocal shown
        while not threading.Event().wait(CLOCK_LOOK_SECONDS):
            wanted = file.read_text()
            if wanted != shown:
                right = datetime.fromtimestamp(time_machine.escape_hatch.time.time(), UTC)
                traveller.move_to(right + timedelta(seconds=float(wanted)), tick=True)
                shown = wanted

    threading.Thread(target=follow, name="false-clock", daemon=True).start()


def main() -> None:
    """Run the service until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos.service")
    parser.add_argument("name", choices=sorted(RUNNERS))
    parser.add_argument("--orders", type=Path, required=True)
    options = parser.parse_args()
    if (options.orders / CLOCK).exists():
        follow_clock(options.orders / CLOCK)
    ledger = find_running_ledger()
    topics = Topics(ledger.settings.topic_prefix)
    with_fault_points: dict[str, Callable[[Ledger, Topics, Fault], None]] = {
        "posting": run_posting,
        "relay": run_relay,
        "worker": run_worker,
        "api": run_api,
    }
    with observe(options.name, ledger):
        if options.name in with_fault_points:
            with_fault_points[options.name](ledger, topics, obeying(options.orders))
        else:
            RUNNERS[options.name](ledger, topics)


if __name__ == "__main__":
    main()
