"""Prometheus and its exporters: those on the PATH, else Debian's packages, unpacked into the cache without root."""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.embedded.errors import CancelledError, EmbeddedError
from ops.embedded.process import Command, run_to_end

Report = Callable[[str], None]

_FETCH_SECONDS_MAX: Final = 300.0
_DPKG_STATUS: Final = "/var/lib/dpkg/status"


@dataclass(frozen=True)
class Program:
    """One program: its names on a PATH (Debian's name first), and the Debian package that contains it."""

    names: tuple[str, ...]
    package: str


PROMETHEUS: Final = Program(("prometheus",), "prometheus")
PROMTOOL: Final = Program(("promtool",), "prometheus")
NODE_EXPORTER: Final = Program(("prometheus-node-exporter", "node_exporter"), "prometheus-node-exporter")
POSTGRES_EXPORTER: Final = Program(
    ("prometheus-postgres-exporter", "postgres_exporter"), "prometheus-postgres-exporter"
)
PROGRAMS: Final = (PROMETHEUS, PROMTOOL, NODE_EXPORTER, POSTGRES_EXPORTER)


class Programs:
    """The programs of this machine; a missing program's package is fetched once and kept below `folder`."""

    def __init__(
        self,
        folder: Path,
        report: Report,
        *,
        cancelled: threading.Event | None = None,
        search_path: str | None = None,
    ) -> None:
        self._folder = folder
        self._report = report
        self._cancelled = cancelled or threading.Event()
        self._search_path = search_path

    def find(self, program: Program) -> Path:
        """Return the program's file, fetching its package first when needed.

        Raises EmbeddedError if the program is not found and apt cannot fetch it. The constructor's `search_path`
        replaces PATH.
        """
        for name in program.names:
            found = shutil.which(name, path=self._search_path)
            if found is not None:
                return Path(found)
        return self._unpacked(program.package) / "usr" / "bin" / program.names[0]

    def _unpacked(self, package: str) -> Path:
        place = self._folder / f"debian-{package}"
        if place.exists():
            return place
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"debian-{package}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            if not place.exists():  # another process may have fetched it while this one waited
                self._fetch(package, place)
        return place

    def _fetch(self, package: str, place: Path) -> None:
        apt, dpkg = shutil.which("apt-get", path=self._search_path), shutil.which("dpkg", path=self._search_path)
        if apt is None or dpkg is None:
            raise EmbeddedError(
                f"{package} is not on the PATH and this machine has no apt to fetch it with: install it, or add the "
                "folder that holds it to PATH."
            )
        scratch = self._folder / f"debian-{package}.build"
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in ("download", "unpacked", "state/lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        log = self._folder / f"debian-{package}.log"
        log.unlink(missing_ok=True)
        self._report(f"{package}: fetching Debian's package, the first time only")
        # Use separate package lists and a separate cache: the machine's may be empty or old, and only root writes them.
        own = (f"Dir::State={scratch}/state", f"Dir::Cache={scratch}/cache", f"Dir::State::status={_DPKG_STATUS}")
        options = ("-q", *(word for option in own for word in ("-o", option)))
        download = scratch / "download"
        self._run(package, (apt, *options, "update"), download, log)
        # If root runs apt, apt downloads as a user without rights, who may have no access to this folder: stay root.
        self._run(package, (apt, *options, "-o", "APT::Sandbox::User=root", "download", package), download, log)
        for archive in download.glob("*.deb"):
            self._run(package, (dpkg, "--extract", str(archive), str(scratch / "unpacked")), download, log)
        (scratch / "unpacked").replace(place)
        shutil.rmtree(scratch)

    def _run(self, package: str, argv: tuple[str, ...], directory: Path, log: Path) -> None:
        def keep_going(_elapsed_seconds: float) -> None:
            if self._cancelled.is_set():
                raise CancelledError(f"Fetching {package} was given up: start again.")

        run_to_end(
            f"Fetching Debian's {package} ({Path(argv[0]).name})",
            Command(argv=argv, log=log, environment=dict(os.environ) | {"HOME": str(directory)}, directory=directory),
            timeout_seconds=_FETCH_SECONDS_MAX,
            keep_going=keep_going,
        )
