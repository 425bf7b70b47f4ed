"""Processor time of all processes that work for one ledger. It explains a rate, and varies little with noise."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import psutil
import psycopg

from ops.embedded.stack import Endpoints

BENCH: Final = "bench"
_BACKENDS: Final = """
SELECT pid, coalesce(nullif(split_part(replace(application_name, 'ledgerline_', ''), ' ', 1), ''), 'others')
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
UNION ALL
SELECT pid, 'background' FROM pg_stat_activity
WHERE backend_type <> 'client backend' AND coalesce(datname, current_database()) = current_database()
"""


class ProcessorTime:
    """Processor seconds by name: of given processes, of Kafka's broker, and of Postgres' backends of one database.

    The Postgres backends of a service count under the service's name (`postgres posting`), and the server's own
    processes count as `postgres background`. Processes on other machines are left out. An ended process keeps the value
    of its last reading.
    """

    def __init__(self, endpoints: Endpoints, dsn: str) -> None:
        self._dsn = dsn
        self._used: dict[str, dict[int, float]] = {}
        self._processes: dict[str, psutil.Process] = {BENCH: psutil.Process()}
        kafka = _listener(urlsplit(f"//{endpoints.kafka_bootstrap.split(',')[0]}").port)
        if kafka is not None:
            self._processes["kafka"] = kafka

    def watch(self, name: str, process: psutil.Process) -> None:
        """Count this process as `name` from now on."""
        self._processes[name] = process

    def seconds(self) -> dict[str, float]:
        """Return the processor seconds of each name so far."""
        for name, process in self._processes.items():
            self._note(name, process.pid)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for pid, name in connection.execute(_BACKENDS).fetchall():
                self._note(f"postgres {name}", pid)
        return {name: sum(used.values()) for name, used in self._used.items()}

    def _note(self, name: str, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            if name.startswith("postgres") and not process.name().startswith("postgres"):
                return  # Postgres is on another machine, and this pid is another process
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            return
        self._used.setdefault(name, {})[pid] = times.user + times.system


def used_since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds that each name used between two readings."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}


def microseconds_each(seconds: Mapping[str, float], intents: int) -> dict[str, float]:
    """Return processor microseconds for each intent by name, the largest first. Leave out values below 0.1."""
    each = {name: round(used / intents * 1e6, 1) for name, used in seconds.items()}
    return dict(sorted(((name, used) for name, used in each.items() if used >= 0.1), key=lambda item: -item[1]))


def _listener(port: int | None) -> psutil.Process | None:
    """Return the process of this machine that listens on a port; None if there is none, or none that is visible."""
    for connection in psutil.net_connections("tcp"):
        is_it = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
        if is_it and connection.pid is not None:
            return psutil.Process(connection.pid)
    return None
