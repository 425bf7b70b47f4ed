"""A ledger of the previous release is upgraded under load, process by process, and back; nothing is lost.

The oracle of `make chaos` judges the result. It shares no code with either release's pipeline.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from db import migrate as migrating
from db.migrate import MigrationError, migrate
from ops.embedded.process import wait_until
from ops.embedded.stack import EmbeddedStack, Endpoints
from runtime.settings import REPOSITORY_ROOT
from tests import releases
from tools.chaos.instance import Fleet, Instance
from tools.chaos.ledger import TENANT, ChaosLedger
from tools.chaos.load import Load
from tools.chaos.oracle import Place, judge

COUNTS = {"posting": 2, "relay": 1, "reconciliation": 1, "audit": 1, "api": 2}
INTENTS_PER_SECOND = 100.0
FLOW_SECONDS_MAX = 120.0


class Upgrade:
    """One ledger with processes of two releases."""

    def __init__(self, endpoints: Endpoints, folder: Path) -> None:
        self.folder = folder
        self.name = "upgraded"
        self.before = releases.unpack(folder / "before")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")} | {
            "LEDGERLINE_HOME": str(folder / "home"),
            "LEDGERLINE_KAFKA_BOOTSTRAP": endpoints.kafka_bootstrap,
            "LEDGERLINE_POSTGRES_DSN": make_conninfo(endpoints.postgres_dsn, dbname=self.name),
            "LEDGERLINE_REGISTRY_URL": endpoints.registry_url,
            "LEDGERLINE_TOPIC_PREFIX": f"{self.name}.",
            "LEDGERLINE_API_REQUESTS_PER_MINUTE": "1000000",
            "LEDGERLINE_RECONCILIATION_SWEEP_SECONDS": "1",
            "LEDGERLINE_AUDIT_SWEEP_SECONDS": "1",
            "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "2",
        }
        self.run(self.before, "prepare")
        # In that release a key without --scope has every scope, and it knows none of the scopes that came later.
        options = ("--requests-per-minute", "1000000", "--json")
        made = json.loads(self.run(self.before, "keys", "add", "load", *options))
        self.ledger = ChaosLedger(endpoints, self.name, made["key"])
        self.fleet = Fleet(
            [self.instance(name, number, self.before) for name, count in COUNTS.items() for number in range(count)],
            print,
        )
        self.load = Load(
            api_urls=lambda: [instance.url for instance in self.fleet["api"]],
            api_key=self.ledger.api_key,
            kafka=endpoints.kafka,
            topics_prefix=self.ledger.topics.prefix,
            registry=endpoints.registry,
            seed=1,
            tenant=TENANT,
            intents_per_second=INTENTS_PER_SECOND,
        )

    def run(self, sources: Path, *arguments: str) -> str:
        """Run the command line of one release; return its output."""
        done = subprocess.run(
            [sys.executable, "-m", releases.COMMANDS if sources == self.before else "cli", *arguments],
            cwd=sources,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def instance(self, name: str, number: int, sources: Path) -> Instance:
        """Return one process of a release, not started yet."""
        folder = self.folder / sources.name
        folder.mkdir(exist_ok=True)
        module = {"module": releases.CHAOS_SERVICE} if sources == self.before else {}
        return Instance(name, number, folder, self.environment, sources, **module)

    def replace(self, name: str, number: int, sources: Path) -> None:
        """Stop a process cleanly, and start one of the release in its place; return when all are ready."""
        place = next(
            index for index, each in enumerate(self.fleet.instances) if (each.name, each.number) == (name, number)
        )
        self.fleet.instances[place].stop()
        self.fleet.instances[place] = self.instance(name, number, sources)
        self.fleet.instances[place].start()
        self.fleet.wait_ready()

    def add(self, name: str, number: int, sources: Path) -> None:
        """Start a process that the release before does not have; return when all are ready."""
        self.fleet.instances.append(self.instance(name, number, sources))
        self.fleet.instances[-1].start()
        self.fleet.wait_ready()

    def posted(self) -> int:
        """Return how many offsets have a journal row; -1 if that is not known."""
        progress = self.ledger.progress()
        return -1 if progress is None else sum(progress.posted.values())

    def let_flow(self, intents: int = 200) -> None:
        """Wait until this many more intents are posted."""
        aim = self.posted() + intents
        assert wait_until(lambda: self.posted() >= aim, timeout_seconds=FLOW_SECONDS_MAX), f"{intents} more posted"

    def releases_connected(self, role: str) -> set[str]:
        """Return the application names of a role's sessions."""
        rows = self.ledger.rows(
            "SELECT DISTINCT application_name FROM pg_stat_activity"
            " WHERE datname = current_database() AND starts_with(application_name, %s)",
            role,
        )
        return {name for (name,) in rows}


@pytest.fixture
def upgrade(tmp_path: Path) -> Iterator[Upgrade]:
    """A running ledger of the previous release, on servers that never saw a later release or its schemas."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    with EmbeddedStack(tmp_path / "parts", cache=cache) as endpoints:
        made = Upgrade(endpoints, tmp_path)
        try:
            made.fleet.start()
            made.fleet.wait_ready()
            yield made
        finally:
            made.fleet.stop()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_upgrade_under_load_posts_all_and_can_be_undone(
    upgrade: Upgrade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = Path(migrating.__file__).parent.parent
    ledger = upgrade.ledger
    upgrade.load.start()
    upgrade.let_flow()
    assert upgrade.releases_connected("ledgerline_posting") == {"ledgerline_posting"}

    # Expand while the previous release serves: run `prepare` of this release.
    prepared = json.loads(upgrade.run(this, "prepare", "--json"))
    assert prepared["migrations"] == [path.name for path in sorted(migrating.MIGRATIONS.glob("*_expand_*"))]
    upgrade.let_flow()

    # Replace one process after the other. The provers come first, so that agents know everything that new workers
    # write.
    for name in ("reconciliation", "audit", "relay", "worker", "posting", "api"):
        for number in range(COUNTS.get(name, 0)):
            upgrade.replace(name, number, this)
            upgrade.let_flow(50)
        if name == "worker":
            upgrade.add(name, 0, this)
            upgrade.let_flow(50)
    current = upgrade.releases_connected("ledgerline_posting")
    assert len(current) == 1
    assert current.pop().startswith("ledgerline_posting ")

    # And back: workers of the previous release on this release's schema, beside workers of this release.
    upgrade.replace("posting", 0, upgrade.before)
    upgrade.replace("api", 0, upgrade.before)
    assert len(upgrade.releases_connected("ledgerline_posting")) == 2
    upgrade.run(this, "prepare")
    upgrade.let_flow()

    # A contract migration would break the previous release, so it waits until that release is gone.
    contracts = tmp_path / "migrations"
    contracts.mkdir()
    for path in migrating.MIGRATIONS.glob("*.sql"):
        (contracts / path.name).write_bytes(path.read_bytes())
    (contracts / "9999_contract_nothing.sql").write_text("-- Needs: 0.2.0\nSELECT 1;")
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "MIGRATIONS", contracts)
        with pytest.raises(MigrationError, match=r"ledgerline_api 0\.1\.0, ledgerline_posting 0\.1\.0"):
            migrate(ledger.dsn, contract=True)
        upgrade.replace("posting", 0, this)
        upgrade.replace("api", 0, this)
        assert migrate(ledger.dsn, contract=True).applied == ["9999_contract_nothing.sql"]
    upgrade.let_flow()

    upgrade.load.finish(60.0)
    assert wait_until(lambda: (found := ledger.progress()) is not None and found.is_quiet, timeout_seconds=180)
    place = Place(ledger.endpoints.kafka_bootstrap, ledger.dsn, ledger.endpoints.registry_url, ledger.topics.prefix)
    verdict = judge(place, upgrade.load.acknowledged, [])
    assert verdict.faults == ()
    assert verdict.counts["posted"] > 1000
    assert upgrade.load.counts["acknowledged"] > 1000
