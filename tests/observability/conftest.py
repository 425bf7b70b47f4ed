"""A whole running ledger with a real Prometheus, for all tests of this folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cli.supervision.supervisor import start_run, stop_run
from ops.observing.configuration import Haste
from ops.observing.observatory import Observatory
from ops.observing.prometheus_part import PrometheusPart
from ops.run_state import RunState
from runtime.settings import REPOSITORY_ROOT

CACHE: Final = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
HASTE: Final = Haste(factor=30, window_seconds_min=12, wait_seconds_min=6, seconds_max=30, scrape_seconds=3)
"""Ten minutes become twenty seconds, and nothing takes longer than thirty. A busy machine may miss a scrape."""
# The agents sweep every second, so that a fault is found within seconds.
FASTER: Final = {
    "LEDGERLINE_RECONCILIATION_SWEEP_SECONDS": "1",
    "LEDGERLINE_AUDIT_SWEEP_SECONDS": "1",
    # A panel shows symmetry rules, and the second one is broken soon.
    "LEDGERLINE_SYMMETRY_RULES": "traffic=clearing:**:0:1h; hurried=clearing:courier:0:1s",
    # The receivers of webhooks are on this machine.
    "LEDGERLINE_CALLS_PRIVATE_ADDRESSES": "true",
    "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "1",
}


@dataclass(frozen=True)
class Observed:
    """A running ledger and the observatory that watches it."""

    state: RunState
    observatory: Observatory

    @property
    def prometheus(self) -> PrometheusPart:
        """The Prometheus server."""
        return self.observatory.prometheus


@pytest.fixture(scope="package")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A ledger of this folder's own, servers included, with shortened times in the rules; every target is up.

    It ends with the folder's last test, because its services sweep all the time and would slow all later tests.
    Running servers that the environment names are not used: their brokers need not export metrics.
    """
    home = tmp_path_factory.mktemp("observed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.startswith("LEDGERLINE_")]:
            monkeypatch.delenv(name)
        for name, value in FASTER.items():
            monkeypatch.setenv(name, value)
        try:
            state = start_run(home, _ignore, tied=True, cache=CACHE)
            with Observatory(home, state, cache=CACHE, report=_ignore, haste=HASTE) as observatory:
                observatory.wait_until_watching()
                yield Observed(state, observatory)
        finally:
            stop_run(home, _ignore)


def _ignore(_message: str) -> None:
    """Ignore a line of progress."""
