"""`ledgerline observe`, run as users run it: it starts the ledger, scrapes everything, and every rule is green."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import REPOSITORY_ROOT
from tests.unit.test_alerts import ALERTS

SERVICES = 5


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_fresh_ledger_is_green(tmp_path: Path) -> None:
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").symlink_to(cache, target_is_directory=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    variables = inherited | {"LEDGERLINE_HOME": str(tmp_path)}

    def ledgerline(*words: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "cli", *words, "--json")
        return subprocess.run(command, cwd=REPOSITORY_ROOT, env=variables, capture_output=True, text=True, check=False)

    try:
        done = ledgerline("observe", "--once")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["green"] is True
        assert found["firing"] == found["pending"] == []
        assert found["alerts"] == len(ALERTS)
        assert {target["health"] for target in found["targets"]} == {"up"}
        jobs = sorted(target["job"] for target in found["targets"])
        assert jobs == ["kafka", *["ledgerline"] * SERVICES, "node", "postgres", "prometheus"]
    finally:
        stopped = ledgerline("down")
    assert json.loads(stopped.stdout) == {"stopped": True}  # the ledger was still up; only Prometheus had ended
