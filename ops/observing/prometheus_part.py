"""A private Prometheus on loopback: started, queried and stopped like the embedded parts.

::

    with PrometheusPart.at(folder, cache, {"ledgerline": [Target("127.0.0.1:9100", {"service": "posting"})]}) as server:
        server.wait_for_targets()
        server.query("sum(ledgerline_relay_lag_records)")
"""

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import httpx

from ops.embedded.errors import EmbeddedError
from ops.embedded.part import Part, PartContext, Report
from ops.embedded.ports import LOOPBACK, PortMemory
from ops.embedded.process import Command, wait_until
from ops.observing.configuration import Haste, Target, Targets, write_configuration, write_targets
from ops.observing.programs import PROMETHEUS, Programs

_REQUEST_SECONDS: Final = 30.0
_TARGETS_SECONDS_MAX: Final = 120.0
_RETENTION: Final = "15d"


@dataclass(frozen=True)
class Sample:
    """One series at one moment, as an instant query returns it; `value` may be NaN."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Alert:
    """One alert that is pending or firing."""

    name: str
    state: str
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True)
class ScrapedTarget:
    """One target as Prometheus sees it: `health` is up, down or unknown; `error` is empty unless it is down."""

    job: str
    address: str
    labels: dict[str, str]
    health: str
    error: str


class PrometheusPart(Part):
    """Prometheus with ops/prometheus' rules and the targets that it is given; its data stay in its folder.

    `haste` shortens the times of the rules for a test. `scrape` changes the targets while Prometheus runs.
    """

    name = "Prometheus"

    def __init__(
        self, context: PartContext, *, programs: Programs, targets: Targets, haste: Haste | None = None
    ) -> None:
        super().__init__(context)
        self._programs = programs
        self._targets = self._and_itself(targets)
        self._haste = haste

    @classmethod
    def at(
        cls,
        folder: Path,
        cache: Path,
        targets: Targets,
        *,
        haste: Haste | None = None,
        port: int | None = None,
        report: Report = lambda _message: None,
    ) -> "PrometheusPart":
        """Return a Prometheus in `folder`, on `port` or a free one, not started; `cache` keeps fetched programs."""
        wanted = {} if port is None else {"prometheus": port}
        claimed = PortMemory(folder / "ports.json").claim(("prometheus",), wanted)["prometheus"]
        cancelled = threading.Event()
        context = PartContext(folder / "prometheus", folder / "prometheus.log", claimed, report, cancelled)
        return cls(context, programs=Programs(cache, report, cancelled=cancelled), targets=targets, haste=haste)

    def __enter__(self) -> "PrometheusPart":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of its pages and its API."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def alerts_page(self) -> str:
        """The URL of the alerts page; Debian's Prometheus redirects / to /classic, where its pages are."""
        root = httpx.get(self.url, timeout=_REQUEST_SECONDS).headers.get("Location", "")
        return f"{self.url}/classic/alerts" if root.startswith("/classic/") else f"{self.url}/alerts"

    @property
    def configuration_folder(self) -> Path:
        """The folder from which this server reads prometheus.yml, rules/ and targets/."""
        return self.folder / "configuration"

    def prepare(self) -> None:
        """Write the configuration, the rules and the targets."""
        write_configuration(self.configuration_folder, self._targets, self._haste)

    def command(self) -> Command:
        """Return the server's command line.

        Debian's build looks for its pages in /usr/share, but the package is only unpacked here, beside the program.
        """
        program = self._programs.find(PROMETHEUS)
        pages = program.parents[1] / "share" / "prometheus" / "web"
        return Command(
            argv=(
                str(program),
                *((f"--web.local-assets={pages}/",) if (pages / "templates").is_dir() else ()),
                f"--config.file={self.configuration_folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--storage.tsdb.retention.time={_RETENTION}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
                "--web.enable-lifecycle",
                "--log.level=warn",
            ),
            log=self.log,
            directory=self.folder,
        )

    def is_ready(self) -> bool:
        """Tell whether Prometheus serves queries."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=_REQUEST_SECONDS).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False  # it does not listen yet: `start` asks again

    def scrape(self, targets: Targets) -> None:
        """Scrape these targets from now on; Prometheus needs a moment, so call `wait_for_targets` afterwards."""
        self._targets = self._and_itself(targets)
        write_targets(self.configuration_folder, self._targets)

    def reload(self) -> None:
        """Read the configuration and the rules again; raises EmbeddedError if Prometheus refuses them."""
        answer = httpx.post(f"{self.url}/-/reload", timeout=_REQUEST_SECONDS)
        if answer.status_code != httpx.codes.OK:
            raise EmbeddedError(f"Prometheus cannot read its configuration ({answer.text.strip()}): read {self.log}.")

    def query(self, promql: str, *, time_seconds: float | None = None) -> list[Sample]:
        """Return the result of an instant query, now or at `time_seconds` since 1970; a scalar has no labels.

        Raises EmbeddedError if Prometheus refuses the query.
        """
        data = self._ask("query", {"query": promql} | ({} if time_seconds is None else {"time": str(time_seconds)}))
        if data["resultType"] in ("scalar", "string"):
            return [Sample({}, float(data["result"][1]))]
        return [Sample(dict(series["metric"]), float(series["value"][1])) for series in data["result"]]

    def value(self, promql: str) -> float:
        """Return the value of a query's one sample, NaN if it has none; raises EmbeddedError if it has several."""
        samples = self.query(promql)
        if len(samples) > 1:
            raise EmbeddedError(f"{promql} has {len(samples)} values: aggregate it to one.")
        return samples[0].value if samples else math.nan

    def alerts(self, *, state: str = "firing") -> list[Alert]:
        """Return the alerts in this state (firing or pending), sorted by name."""
        found = [
            Alert(alert["labels"]["alertname"], alert["state"], alert["labels"], alert["annotations"])
            for alert in self._ask("alerts")["alerts"]
        ]
        return sorted((alert for alert in found if alert.state == state), key=lambda alert: alert.name)

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule of Prometheus, with `name`, `type`, `query`, `health` and `lastError`."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[ScrapedTarget]:
        """Return every target that is scraped, including Prometheus itself."""
        return [
            ScrapedTarget(
                job=target["labels"]["job"],
                address=target["labels"]["instance"],
                labels=target["labels"],
                health=target["health"],
                error=target["lastError"],
            )
            for target in self._ask("targets", {"state": "active"})["activeTargets"]
        ]

    def targets_not_up(self) -> list[str]:
        """Return a sentence for each target that is not up, or that Prometheus does not scrape yet."""
        seen = {(target.job, target.address): target for target in self.targets()}
        wanted = [(job, target.address) for job, targets in self._targets.items() for target in targets]
        missing = [f"{job} at {address} is not scraped yet" for job, address in wanted if (job, address) not in seen]
        return missing + [
            f"{target.job} at {target.address} is {target.health}: {target.error or 'not scraped yet'}"
            for target in seen.values()
            if target.health != "up"
        ]

    def wait_for_targets(self, *, timeout_seconds: float = _TARGETS_SECONDS_MAX) -> None:
        """Return when every target is up; raises EmbeddedError, naming those that are not, when the time is up."""
        if not wait_until(lambda: not self.targets_not_up(), timeout_seconds=timeout_seconds):
            raise EmbeddedError(f"Not every target is up: {'; '.join(self.targets_not_up())}.")

    def _and_itself(self, targets: Targets) -> Targets:
        return {**targets, "prometheus": (Target(f"{LOOPBACK}:{self.port}"),)}

    def _ask(self, what: str, parameters: dict[str, str] | None = None) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=_REQUEST_SECONDS)
        document = answer.json()
        if document["status"] != "success":
            raise EmbeddedError(f"Prometheus refuses {parameters or what}: {document['error']}.")
        data: dict[str, Any] = document["data"]
        return data
