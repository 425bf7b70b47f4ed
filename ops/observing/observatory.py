"""Prometheus with its rules, and the exporters, beside the run of one home; what `ledgerline observe` starts."""

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final

from ops.embedded.errors import EmbeddedError
from ops.embedded.ownership import Ownership
from ops.embedded.part import Part, PartContext, Report
from ops.embedded.ports import PortMemory
from ops.embedded.process import wait_until
from ops.embedded.stack import ports_from_environment
from ops.observing.configuration import Haste, Targets
from ops.observing.exporters import Exporter, NodeExporter, PostgresExporter
from ops.observing.ledger_targets import targets_of
from ops.observing.programs import Programs
from ops.observing.prometheus_part import PrometheusPart
from ops.run_state import RunState

_PORT_NAMES: Final = ("prometheus", "node_exporter", "postgres_exporter")
_RULES_SECONDS_MAX: Final = 120.0
_SETTLED_SECONDS_MAX: Final = 35.0


class Observatory:
    """The parts that watch a ledger, as children of this process; their data are in the home's data/observing.

    `cache` keeps programs that the machine lacks; `haste` is for tests.
    """

    def __init__(
        self,
        home: Path,
        state: RunState,
        *,
        cache: Path,
        report: Report,
        environment: Mapping[str, str] | None = None,
        haste: Haste | None = None,
    ) -> None:
        if state.endpoints is None:
            raise EmbeddedError("The addresses of this home's parts are unknown: start the ledger again.")
        self.folder = home.resolve() / "data" / "observing"
        self._report = report
        self._ownership = Ownership(
            self.folder,
            lambda owner: (
                f"This ledger is observed already, by process {owner}: use that one, or end it with `kill {owner}`."
            ),
        )
        self._ownership.take()
        wanted = ports_from_environment(_PORT_NAMES, environment or {})
        ports = PortMemory(self.folder / "ports.json").claim(_PORT_NAMES, wanted)
        cancelled = threading.Event()
        programs = Programs(cache, report, cancelled=cancelled)
        place = partial(self._place, ports, cancelled)
        self.exporters: dict[str, Exporter] = {
            "node": NodeExporter(place("node_exporter"), programs=programs),
            "postgres": PostgresExporter(
                place("postgres_exporter"), programs=programs, dsn=state.endpoints.postgres_dsn
            ),
        }
        self.prometheus = PrometheusPart(
            place("prometheus"), programs=programs, targets=self._all_targets(state), haste=haste
        )

    def start(self) -> None:
        """Start the exporters, then Prometheus; if one fails, stop all of them and raise EmbeddedError."""
        parts: list[Part] = [*self.exporters.values(), self.prometheus]
        try:
            for part in parts:
                self._report(f"{part.name}: starting on port {part.port}")
                part.start()
        except BaseException:  # Ctrl-C as well
            self.stop()
            raise

    def stop(self) -> None:
        """Stop Prometheus and the exporters; harmless if nothing runs."""
        for part in (self.prometheus, *self.exporters.values()):
            part.stop()
        self._ownership.give_back()

    def __enter__(self) -> "Observatory":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def follow(self, state: RunState) -> None:
        """Scrape the services of this run from now on, and no longer the earlier ones."""
        self.prometheus.scrape(self._all_targets(state))

    def wait_until_watching(self) -> None:
        """Return when every target is up and every rule is evaluated; raise EmbeddedError that names the others."""
        self.prometheus.wait_for_targets()
        if not wait_until(lambda: not self._unwell_rules(), timeout_seconds=_RULES_SECONDS_MAX):
            raise EmbeddedError(f"Rules cannot be evaluated: {'; '.join(self._unwell_rules())}.")

    def becomes_green(self) -> bool:
        """Tell whether, within 35 s, no alert is firing or pending.

        35 s are two evaluations: the first one may come before a scrape.
        """
        return wait_until(
            lambda: not self.prometheus.alerts() and not self.prometheus.alerts(state="pending"),
            timeout_seconds=_SETTLED_SECONDS_MAX,
        )

    def _unwell_rules(self) -> list[str]:
        rules = self.prometheus.rules()
        unwell = [f"{rule['name']} is {rule['health']} {rule.get('lastError', '')}".rstrip() for rule in rules]
        return [sentence for sentence, rule in zip(unwell, rules, strict=True) if rule["health"] != "ok"]

    def _all_targets(self, state: RunState) -> Targets:
        return {**targets_of(state), **{job: (exporter.target,) for job, exporter in self.exporters.items()}}

    def _place(self, ports: Mapping[str, int], cancelled: threading.Event, name: str) -> PartContext:
        return PartContext(self.folder / name, self.folder / f"{name}.log", ports[name], self._report, cancelled)
