"""`ledgerline demo`, small, run as users run it: it holds, it counts, and it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runtime.settings import REPOSITORY_ROOT

INTENTS = 3000
OUTCOMES = {"posted", "rejected", "duplicate", "idempotency_conflict", "quarantined"}


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a separate home with the parts that are already built. No process of that home may stay."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").symlink_to(cache, target_is_directory=True)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_") and name != "KEEP"
    }
    yield inherited | {"LEDGERLINE_HOME": str(tmp_path), "COLUMNS": "100"}
    assert _processes_of(tmp_path) == []


def _processes_of(home: Path) -> list[str]:
    """Return the command lines of processes that belong to a home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(home) in word for word in words):
            found.append(" ".join(words))
    return found


def _command(*options: str) -> list[str]:
    return [sys.executable, "-m", "cli", "demo", "--intents", str(INTENTS), *options]


@pytest.mark.timeout(300)
def test_the_demo_holds_and_counts_everything(variables: dict[str, str]) -> None:
    # The environment names a ledger that belongs to someone. The demo must not touch it.
    named = {"LEDGERLINE_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none", "LEDGERLINE_API_KEY": "llk_a_b"}
    done = subprocess.run(
        _command("--json"), cwd=REPOSITORY_ROOT, env=variables | named, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["held"] is True
    assert all(check["held"] for check in summary["checks"])
    assert len(summary["checks"]) >= 15
    assert summary["outcomes"] == summary["expected_outcomes"]
    assert set(summary["outcomes"]) == OUTCOMES
    assert summary["received"] == sum(summary["outcomes"].values()) > INTENTS
    assert all(row["debits_minor"] == row["credits_minor"] for row in summary["sums"])
    assert sum(head["seq"] + 1 for head in summary["heads"].values()) == summary["received"]
    named_rows = next(check for check in summary["checks"] if check["name"] == "rows named by the verification")
    assert len(named_rows["found"]) == 1
    assert not (Path(variables["LEDGERLINE_HOME"]) / "demo").exists()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "last_line",
    [
        "── Start",
        pytest.param("── A real ledger", marks=pytest.mark.long),
        pytest.param("── A busy day", marks=pytest.mark.long),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(variables: dict[str, str], last_line: str) -> None:
    with subprocess.Popen(
        _command(), cwd=REPOSITORY_ROOT, env=variables | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        shown = []
        for line in demo.stdout:
            shown.append(line)
            if line.startswith(last_line):
                break
        demo.send_signal(signal.SIGINT)
        shown += demo.stdout.readlines()
        assert demo.wait(60) == 130, "".join(shown)
    assert any("Interrupted" in line for line in shown)
    assert not (Path(variables["LEDGERLINE_HOME"]) / "demo").exists()
