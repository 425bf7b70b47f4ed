"""The embedded Schema Registry: Apicurio with an H2 file, read through its Confluent-compatible API."""

import http.client
import signal

from ops.embedded.cache import REGISTRY, Cache
from ops.embedded.java import find_java
from ops.embedded.part import Part, PartContext
from ops.embedded.ports import LOOPBACK
from ops.embedded.process import Command

API_PATH = "/apis/ccompat/v7"
_READY_PATH = "/health/ready"
_REQUEST_SECONDS = 2.0

_JVM_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


class RegistryPart(Part):
    """Apicurio Registry 2.4.2, an old release that is for loopback only."""

    name = "Schema Registry"
    stop_steps = ((signal.SIGTERM, 6.0),)

    def __init__(self, context: PartContext, *, cache: Cache) -> None:
        super().__init__(context)
        self._cache = cache

    @property
    def url(self) -> str:
        """The base URL of the Confluent-compatible API."""
        return f"http://{LOOPBACK}:{self.port}{API_PATH}"

    def prepare(self) -> None:
        """Do nothing: the registry makes its own tables."""

    def command(self) -> Command:
        """Return the registry's command line.

        WRITE_DELAY=0 makes H2 write at each commit; by default a schema registered half a second before a crash
        would be lost although its id was handed out.
        """
        return Command(
            argv=(
                str(find_java().executable),
                *_JVM_OPTIONS,
                f"-Dquarkus.http.host={LOOPBACK}",
                f"-Dquarkus.http.port={self.port}",
                f"-DREGISTRY_DATASOURCE_URL=jdbc:h2:file:{self.folder}/registry;WRITE_DELAY=0",
                "-jar",
                str(self._cache.get(REGISTRY) / "quarkus-run.jar"),
            ),
            log=self.log,
            directory=self.folder,
        )

    def is_ready(self) -> bool:
        """Tell whether the registry says that it and its database are ready."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=_REQUEST_SECONDS)
        try:
            connection.request("GET", _READY_PATH)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False  # it does not listen yet: `start` asks again
        finally:
            connection.close()
