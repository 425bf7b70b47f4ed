"""The exporters of metrics for Postgres and for the machine, on loopback."""

import os
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx

from ops.embedded.part import Part, PartContext
from ops.embedded.ports import LOOPBACK
from ops.embedded.process import Command
from ops.observing.configuration import Target
from ops.observing.programs import NODE_EXPORTER, POSTGRES_EXPORTER, Program, Programs

_REQUEST_SECONDS: Final = 10.0

# The collectors that the rules and dashboards query, and those that help first if the machine has a problem.
_NODE_COLLECTORS: Final = (
    "cpu", "diskstats", "filefd", "filesystem", "loadavg", "meminfo", "netdev", "pressure", "stat", "time", "uname",
    "vmstat",
)  # fmt: skip


class Exporter(Part):
    """A program that serves /metrics on its port."""

    program: Program

    def __init__(self, context: PartContext, *, programs: Programs) -> None:
        super().__init__(context)
        self._programs = programs

    @property
    def target(self) -> Target:
        """The address that Prometheus scrapes."""
        return Target(f"{LOOPBACK}:{self.port}")

    def prepare(self) -> None:
        """Do nothing: an exporter stores nothing."""

    def is_ready(self) -> bool:
        """Tell whether the exporter serves its own page; the health of Postgres or the machine is in its metrics."""
        try:
            return httpx.get(f"http://{LOOPBACK}:{self.port}/", timeout=_REQUEST_SECONDS).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False  # it does not listen yet: `start` asks again


class NodeExporter(Exporter):
    """The exporter of the machine's metrics: processors, memory, disks, file systems, network."""

    name = "the node exporter"
    program = NODE_EXPORTER

    def command(self) -> Command:
        """Return the exporter's command line."""
        return Command(
            argv=(
                str(self._programs.find(self.program)),
                f"--web.listen-address={LOOPBACK}:{self.port}",
                "--collector.disable-defaults",
                *(f"--collector.{name}" for name in _NODE_COLLECTORS),
                "--log.level=warn",
            ),
            log=self.log,
            directory=self.folder,
        )


class PostgresExporter(Exporter):
    """The exporter of Postgres; the DSN's login may read the statistics, and only the environment has the DSN."""

    name = "the Postgres exporter"
    program = POSTGRES_EXPORTER

    def __init__(self, context: PartContext, *, programs: Programs, dsn: str) -> None:
        super().__init__(context, programs=programs)
        self._dsn = dsn

    def command(self) -> Command:
        """Return the exporter's command line."""
        return Command(
            argv=(
                str(self._programs.find(self.program)),
                f"--web.listen-address={LOOPBACK}:{self.port}",
                # Debian's release of this exporter queries columns that Postgres 17 moved to another view.
                "--no-collector.bgwriter",
                "--log.level=warn",
            ),
            log=self.log,
            environment=dict(os.environ) | {"DATA_SOURCE_NAME": with_stated_encryption(self._dsn)},
            directory=self.folder,
        )


def with_stated_encryption(dsn: str) -> str:
    """Return the DSN with sslmode=disable: without any, the exporter's driver requires TLS, but libpq does not.

    A DSN that has an sslmode, or that is no URI, is returned unchanged.
    """
    url = urlsplit(dsn)
    options = dict(parse_qsl(url.query))
    if not url.scheme or "sslmode" in options:
        return dsn
    return urlunsplit(url._replace(query=urlencode(options | {"sslmode": "disable"})))
