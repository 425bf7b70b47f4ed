"""The three parts together, owned by one process at a time."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

from ops.embedded.cache import Cache
from ops.embedded.errors import CancelledError, EmbeddedError
from ops.embedded.kafka_part import KafkaPart, Listeners
from ops.embedded.ownership import Ownership
from ops.embedded.part import Part, PartContext, Report
from ops.embedded.ports import PortMemory, answers, variable
from ops.embedded.postgres_part import PostgresPart
from ops.embedded.process import wait_until
from ops.embedded.registry_part import RegistryPart
from runtime.kafka import Kafka
from runtime.private_files import make_private
from runtime.schema_registry import SchemaRegistry

_REACHABLE_SECONDS_MAX = 15.0
_DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "http": 80, "https": 443}
_PORT_NAMES = ("kafka", "kafka_controller", "kafka_metrics", "postgres", "registry")


@dataclass(frozen=True)
class Endpoints:
    """The addresses of the three parts."""

    kafka_bootstrap: str
    """Comma-separated host:port, as `bootstrap.servers` takes it."""
    postgres_dsn: str
    """A libpq connection URI."""
    registry_url: str
    """The base URL of the Confluent-compatible API; for the embedded one it ends with /apis/ccompat/v7."""

    @property
    def kafka(self) -> Kafka:
        """The broker, without credentials: the embedded broker requires no login."""
        return Kafka(self.kafka_bootstrap)

    @property
    def registry(self) -> SchemaRegistry:
        """The registry, without credentials."""
        return SchemaRegistry(self.registry_url)


def _discard(_message: str) -> None:
    """Report nothing."""


SomePart = TypeVar("SomePart", bound=Part)


class EmbeddedStack:
    """Kafka, Postgres and a Schema Registry as child processes of this one.

    `home` holds `data/` (what the servers store, their logs, the ports) and, unless `cache` names another
    folder, `cache/` (the jars). If a part's address is given, the stack uses the server at that address and starts
    none. `ports` asks for fixed ports by name (kafka, kafka_controller, kafka_metrics, postgres, registry).
    `kafka_listeners` are additional listeners of the broker, name -> (port, advertised port). If `kafka_metrics` is
    true, the broker serves metrics to Prometheus. `kafka_settings` and `postgres_settings` are added to the servers'
    own files unchanged. For `kafka_users`, `postgres_files` and `postgres_programs` see KafkaPart and PostgresPart.
    """

    def __init__(
        self,
        home: Path,
        *,
        kafka: str | None = None,
        postgres: str | None = None,
        registry: str | None = None,
        report: Report = _discard,
        cache: Path | None = None,
        ports: Mapping[str, int] | None = None,
        kafka_listeners: Listeners | None = None,
        kafka_metrics: bool = False,
        kafka_settings: Mapping[str, str] | None = None,
        kafka_users: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
        postgres_files: Mapping[str, str] | None = None,
        postgres_programs: Path | None = None,
    ) -> None:
        self.home = home.resolve()
        self.data = self.home / "data"
        self._given = {"kafka": kafka, "postgres": postgres, "registry": registry}
        self._report = report
        self._cancelled = threading.Event()
        self._cache = Cache((cache or self.home / "cache").resolve(), report, self._cancelled)
        self._wanted_ports = dict(ports or {})
        self._kafka_listeners = kafka_listeners
        self._kafka_metrics = kafka_metrics
        self._kafka_settings = kafka_settings
        self._kafka_users = kafka_users
        self._postgres_settings = postgres_settings
        self._postgres_files = postgres_files
        self._postgres_programs = postgres_programs
        self._ownership = Ownership(
            self.data,
            lambda owner: (
                f"{self.home} is in use by process {owner}: run `ledgerline down`, or choose another home"
                " with LEDGERLINE_HOME."
            ),
        )
        self._parts: dict[str, Part] = {}
        self._state_lock = threading.RLock()

    @classmethod
    def from_environment(
        cls,
        home: Path,
        environment: Mapping[str, str],
        *,
        report: Report = _discard,
        cache: Path | None = None,
        kafka_metrics: bool = False,
    ) -> "EmbeddedStack":
        """Make a stack from LEDGERLINE_* variables.

        LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN and LEDGERLINE_REGISTRY_URL name parts that run
        already; LEDGERLINE_KAFKA_PORT, LEDGERLINE_KAFKA_CONTROLLER_PORT, LEDGERLINE_KAFKA_METRICS_PORT,
        LEDGERLINE_POSTGRES_PORT and LEDGERLINE_REGISTRY_PORT fix the ports of the embedded ones. If an address is
        unset or empty, the part is embedded; if a port is unset, empty or 0, a free port is picked.
        """
        return cls(
            home,
            kafka=environment.get("LEDGERLINE_KAFKA_BOOTSTRAP") or None,
            postgres=environment.get("LEDGERLINE_POSTGRES_DSN") or None,
            registry=environment.get("LEDGERLINE_REGISTRY_URL") or None,
            report=report,
            cache=cache,
            ports=ports_from_environment(_PORT_NAMES, environment),
            kafka_metrics=kafka_metrics,
        )

    @property
    def kafka(self) -> KafkaPart:
        """The embedded broker; raises EmbeddedError when the stack has none."""
        return self._part("kafka", KafkaPart)

    @property
    def postgres(self) -> PostgresPart:
        """The embedded database server; raises EmbeddedError when the stack has none."""
        return self._part("postgres", PostgresPart)

    @property
    def registry(self) -> RegistryPart:
        """The embedded Schema Registry; raises EmbeddedError when the stack has none."""
        return self._part("registry", RegistryPart)

    @property
    def parts(self) -> Mapping[str, Part]:
        """The embedded parts by name, empty before `start` and after `stop`."""
        return dict(self._parts)

    def cancel(self) -> None:
        """Make a running `start` raise CancelledError soon; call it from another thread or from a signal handler."""
        self._cancelled.set()

    def own(self) -> None:
        """Claim the home for this process, which `start` does as well; raises EmbeddedError when it is in use."""
        with self._state_lock:
            self._take_home()

    def start(self) -> Endpoints:
        """Start the parts that were not given, at the same time, and return when each of them is ready.

        Raises EmbeddedError when the home is in use, a part cannot be started or a given one does not answer.
        """
        with self._state_lock:
            self._take_home()
            try:
                if not self._parts:
                    self._parts = self._make_parts()
                self._start_parts()
                self._require_given()
                return self._endpoints()
            except BaseException:  # Ctrl-C as well: nothing stays half started
                self.stop()
                raise

    def stop(self) -> None:
        """Stop the parts gracefully, at the same time; does nothing when none is running."""
        with self._state_lock:
            try:
                if self._parts:
                    self._report("stopping " + ", ".join(self._parts))
                    self._at_once({name: part.stop for name, part in self._parts.items()})
            finally:
                self._parts = {}
                self._cancelled.clear()
                self._ownership.give_back()

    def __enter__(self) -> Endpoints:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_home(self) -> None:
        if not self._ownership.is_taken:
            self._ownership.take()
            make_private(self.home, self._report)

    def _part(self, name: str, kind: type[SomePart]) -> SomePart:
        part = self._parts.get(name)
        if not isinstance(part, kind):
            if self._given[name]:
                raise EmbeddedError(
                    f"There is no embedded {name} here because it was given an address: leave the address out."
                )
            raise EmbeddedError(f"There is no embedded {name} here because the stack is not started: call start first.")
        return part

    def _make_parts(self) -> dict[str, Part]:
        missing = [name for name, address in self._given.items() if not address]
        unused = () if self._kafka_metrics else ("kafka_metrics",)
        ports = PortMemory(self.data / "ports.json").claim(
            tuple(port for port in _PORT_NAMES if port.partition("_")[0] in missing and port not in unused),
            self._wanted_ports,
        )
        (self.data / "logs").mkdir(parents=True, exist_ok=True)
        context = partial(PartContext, report=self._report, cancelled=self._cancelled)
        makers: dict[str, Callable[[PartContext], Part]] = {
            "kafka": lambda place: KafkaPart(
                place,
                controller_port=ports["kafka_controller"],
                cache=self._cache,
                listeners=self._kafka_listeners,
                metrics_port=ports.get("kafka_metrics"),
                settings=self._kafka_settings,
                users=self._kafka_users,
            ),
            "postgres": lambda place: PostgresPart(
                place,
                settings=self._postgres_settings,
                files=self._postgres_files,
                programs=self._postgres_programs,
            ),
            "registry": lambda place: RegistryPart(place, cache=self._cache),
        }
        return {
            name: makers[name](
                context(folder=self.data / name, log=self.data / "logs" / f"{name}.log", port=ports[name])
            )
            for name in missing
        }

    def _start_parts(self) -> None:
        def starter(name: str, part: Part) -> Callable[[], None]:
            def start() -> None:
                self._report(f"{name}: starting on port {part.port}")
                part.start()
                self._report(f"{name}: ready")

            return start

        self._at_once({name: starter(name, part) for name, part in self._parts.items()})

    def _at_once(self, actions: Mapping[str, Callable[[], None]]) -> None:
        """Run the actions in parallel; after all have ended, raise one of their errors if there is any."""
        if not actions:
            return
        with ThreadPoolExecutor(max_workers=len(actions), thread_name_prefix="embedded-part") as pool:
            futures = [pool.submit(action) for action in actions.values()]
            try:
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # Ctrl-C: without the cancel, the pool waits minutes for a build to end
                self._cancelled.set()
                raise
            if any(future.exception() for future in ended):
                self._cancelled.set()
        errors = [error for error in (future.exception() for future in futures) if error is not None]
        # The part that failed is the reason; the parts that were cancelled because of it are not.
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error

    def _require_given(self) -> None:
        """Raise EmbeddedError when nothing accepts connections at a given address."""
        for setting, host, port in self._given_addresses():
            if not wait_until(partial(answers, host, port), timeout_seconds=_REACHABLE_SECONDS_MAX):
                raise EmbeddedError(f"Nothing answers at {host}:{port}: check {setting}.")

    def _given_addresses(self) -> list[tuple[str, str, int]]:
        """Return (setting, host, port) of each given part; a DSN of libpq keywords is left to the driver."""
        found: list[tuple[str, str, int]] = []
        if kafka := self._given["kafka"]:
            host, _, port = kafka.split(",")[0].rpartition(":")
            if not port.isdigit():
                raise EmbeddedError(f"LEDGERLINE_KAFKA_BOOTSTRAP is {kafka!r}: set it to host:port.")
            found.append(("LEDGERLINE_KAFKA_BOOTSTRAP", host.strip("[]"), int(port)))
        for name, setting in (("postgres", "LEDGERLINE_POSTGRES_DSN"), ("registry", "LEDGERLINE_REGISTRY_URL")):
            url = urlsplit(self._given[name] or "")
            if url.hostname:
                found.append((setting, url.hostname, url.port or _DEFAULT_PORTS.get(url.scheme, 80)))
        return found

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            kafka_bootstrap=self._given["kafka"] or self.kafka.bootstrap,
            postgres_dsn=self._given["postgres"] or self.postgres.dsn,
            registry_url=self._given["registry"] or self.registry.url,
        )


def ports_from_environment(names: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, int]:
    """Return the ports that LEDGERLINE_<NAME>_PORT asks for; raises EmbeddedError if a value is no port."""
    ports: dict[str, int] = {}
    for name in names:
        text = environment.get(variable(name), "").strip()
        if text in ("", "0"):
            continue
        if not text.isdigit() or not 0 < int(text) < 65_536:
            raise EmbeddedError(f"{variable(name)} is {text!r}, which is no port: set a number from 1 to 65535.")
        ports[name] = int(text)
    return ports
