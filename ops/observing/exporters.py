"""What speaks to Prometheus for Postgres and for the machine, on loopback."""

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

# What the rules and dashboards ask for, and what one looks at first on a machine in trouble.
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
        """What Prometheus is to scrape."""
        return Target(f"{LOOPBACK}:{self.port}")

    def prepare(self) -> None:
        """Do nothing: an exporter keeps nothing."""

    def is_ready(self) -> bool:
        """Tell whether it serves its own page; whether what it speaks for is well is what it is there to tell."""
        try:
            return httpx.get(f"http://{LOOPBACK}:{self.port}/", timeout=_REQUEST_SECONDS).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False  # it does not listen yet: asked again until the deadline


class NodeExporter(Exporter):
    """The machine: processors, memory, disks, file systems, network."""

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
    """Postgres, at a DSN whose login may read its statistics; the DSN is in the exporter's environment only."""

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
                # Debian's release of it asks for columns that Postgres 17 moved elsewhere.
                "--no-collector.bgwriter",
                "--log.level=warn",
            ),
            log=self.log,
            environment=dict(os.environ) | {"DATA_SOURCE_NAME": with_stated_encryption(self._dsn)},
            directory=self.folder,
        )


def with_stated_encryption(dsn: str) -> str:
    """Return the DSN with an sslmode: the exporter's driver insists on TLS where libpq would do without.

    What states one is left alone, and so is a DSN that is no URI.
    """
    url = urlsplit(dsn)
    options = dict(parse_qsl(url.query))
    if not url.scheme or "sslmode" in options:
        return dsn
    return urlunsplit(url._replace(query=urlencode(options | {"sslmode": "disable"})))
