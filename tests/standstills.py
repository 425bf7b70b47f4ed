"""Look for a service that does not recover from a standstill: `python -m tests.standstills --seed 1 --minutes 120`.

Each turn stops Kafka, Postgres or both with SIGSTOP for 5 to 120 seconds, under load, with two posting workers and with
up to four processes that only burn processor time. Afterwards every service must catch up within its watchdog's term. A
service that ends itself is started again, as its supervisor would. The folder keeps the log of every process, so the
first failure can be explained.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from pydantic import SecretStr
from rich.console import Console

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.topics import Topics
from ops.embedded.process import wait_until
from ops.embedded.stack import EmbeddedStack
from producers.deploy import Replication, make_topics, register_schemas
from runtime.kafka import Kafka
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.bounds_bench import Load, Services, standing_still
from tests.posting_bench import PostingBench
from tests.service_process import ServiceProcess

LANES = 4
SECONDS_MIN, SECONDS_MAX = 5.0, 120.0
BURNERS_MAX = 4
STALL_SECONDS = 60.0
# The watchdog's term, plus the time for a service to start and join the group on a busy machine.
CATCH_UP_SECONDS_MAX = STALL_SECONDS + 120.0
QUIET_SECONDS_MAX = 20.0
SECOND_WORKER = "posting 2"
# Lanes in which an agent is behind the ledger: the next seq of the ledger and of each agent.
BEHIND = """
SELECT l.lane, l.next_seq AS posted, r.next_seq AS reconciled, a.next_seq AS audited
FROM ledger.lane AS l
LEFT JOIN reconciliation.lane AS r ON r.lane = l.lane
LEFT JOIN audit.lane AS a ON a.lane = l.lane
WHERE r.next_seq IS DISTINCT FROM l.next_seq OR a.next_seq IS DISTINCT FROM l.next_seq
ORDER BY l.lane
"""
console = Console(soft_wrap=True, highlight=False)


class _Fleet(Services):
    """All services and a second posting worker. A service that ended is started again and counted."""

    def __init__(self, ledger: PostingBench, folder: Path) -> None:
        super().__init__(ledger, folder)
        self.ended_itself: list[str] = []

    def start(self) -> None:
        if SECOND_WORKER not in self.running or not self.running[SECOND_WORKER].runs():
            worker = ServiceProcess("posting", self.ledger.settings, self._folder)
            self.running[SECOND_WORKER] = self._stack.enter_context(worker)
        super().start()

    def revive(self) -> None:
        """Start again every service that ended by itself."""
        ended = [name for name, process in self.running.items() if not process.runs()]
        if ended:
            self.ended_itself += [f"{name} ({self.running[name].process.returncode})" for name in ended]
            console.print(f"  ended by themselves: {', '.join(ended)}")
            self.start()


def let_pass(seconds: float) -> None:
    """Wait for a fixed time. A standstill is defined by its length, so there is no condition to wait for."""
    threading.Event().wait(seconds)


def _burn() -> None:
    while True:
        sum(range(100_000))


@contextmanager
def burning(count: int) -> Iterator[None]:
    """Run this many processes that use a processor all the time."""
    burners = [multiprocessing.get_context("fork").Process(target=_burn, daemon=True) for _ in range(count)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def _missing(ledger: PostingBench, load: Load) -> int:
    """Return how many accepted intents are not posted."""
    query = "SELECT count(*) AS rows FROM ledger.journal WHERE outcome = 'posted' AND starts_with(idempotency_key, %s)"
    return len(load.accepted) - int(ledger.rows(query, load.name)[0]["rows"])


def _caught_up(fleet: _Fleet, load: Load) -> bool:
    fleet.revive()
    try:
        return _missing(fleet.ledger, load) <= 0 and not fleet.ledger.rows(BEHIND)
    except psycopg.OperationalError:  # Postgres is restarting while the query runs
        return False


def _show_state(fleet: _Fleet, load: Load) -> None:
    """Print what explains a stuck service: missing intents, lanes, and each service's last log lines and stacks."""
    console.print(f"missing: {_missing(fleet.ledger, load)}; lanes behind: {fleet.ledger.rows(BEHIND)}")
    for name, process in fleet.running.items():
        console.print(f"--- {name} {process.process.pid}, {process.log_file}\n{process.log()[-3000:]}", markup=False)
        lags = [line for line in process.metrics().splitlines() if line.startswith("ledgerline_agent")]
        console.print("\n".join(lags), markup=False)
        if shutil.which("py-spy", path=f"{Path(sys.executable).parent}") is not None:
            dump = [f"{Path(sys.executable).parent}/py-spy", "dump", "--pid", str(process.process.pid)]
            console.print(subprocess.run(dump, capture_output=True, text=True, check=False).stdout, markup=False)


def run_turns(seed: int, minutes: float, folder: Path) -> tuple[int, bool]:
    """Run turns until the minutes are over or one fails. Return the number of turns and whether all held."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        cache = REPOSITORY_ROOT / ".ledgerline" / "cache"
        parts = EmbeddedStack(folder / "parts", cache=cache)
        endpoints = stack.enter_context(parts)
        register_schemas(endpoints.registry)
        topics = Topics("standstills.")
        make_topics(Kafka(parts.kafka.bootstrap), topics, LANES, Replication())
        migrate(endpoints.postgres_dsn)
        with connect(endpoints.postgres_dsn, "ledgerline_operator") as operator:
            add_tenant(operator, "default")
        settings = Settings(
            home=folder / "home",
            kafka_bootstrap=parts.kafka.bootstrap,
            postgres_dsn=SecretStr(endpoints.postgres_dsn),
            registry_url=endpoints.registry_url,
            topic_prefix=topics.prefix,
            lanes=LANES,
            api_port=0,
            api_requests_per_minute=10_000_000,
            posting_stall_seconds_max=STALL_SECONDS,
        )
        ledger = PostingBench(settings, topics)
        stack.callback(ledger.close)
        fleet = stack.enter_context(_Fleet(ledger, folder))
        turns, deadline = 0, time.monotonic() + minutes * 60
        while time.monotonic() < deadline:
            turns += 1
            which = chance.choice(["kafka", "kafka", "postgres", "both"])
            seconds = min(SECONDS_MAX, SECONDS_MIN * (SECONDS_MAX / SECONDS_MIN) ** chance.random())
            burners, rate = chance.randint(0, BURNERS_MAX), chance.choice([1, 2, 4])
            began = time.time()
            with burning(burners), Load(fleet.url, fleet.key, rate) as load:
                if not wait_until(lambda: len(load.accepted) > 50, timeout_seconds=90):
                    console.print("the load did not begin")
                    _show_state(fleet, load)
                    return turns, False
                with ExitStack() as still:
                    if which in ("kafka", "both"):
                        still.enter_context(standing_still(parts.kafka))
                    if which in ("postgres", "both"):
                        still.enter_context(standing_still(parts.postgres))
                    let_pass(seconds)
                resumed = time.monotonic()
                let_pass(chance.random() * QUIET_SECONDS_MAX)
                load.stop()
                held = wait_until(lambda: _caught_up(fleet, load), timeout_seconds=CATCH_UP_SECONDS_MAX)
                row = {
                    "turn": turns, "time": began, "which": which, "seconds": round(seconds, 1), "burners": burners,
                    "accepted": len(load.accepted), "caught_up_seconds": round(time.monotonic() - resumed, 1),
                    "ended_itself": fleet.ended_itself, "held": held,
                }  # fmt: skip
                with (folder / "turns.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
                console.print(json.dumps(row), markup=False)
                if not held:
                    _show_state(fleet, load)
                    return turns, False
                fleet.ended_itself.clear()
    return turns, True


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.standstills",
        description="Stop Kafka and Postgres again and again, and look for services that do not recover.",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=120.0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ledgerline-standstills-"))
    console.print(f"logs: {folder}")
    turns, held = run_turns(asked.seed, asked.minutes, folder)
    console.print(f"{turns} standstills, {'all held' if held else 'the last one did not hold'}")
    return not held


if __name__ == "__main__":
    sys.exit(main())
