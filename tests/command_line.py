"""Runs `ledgerline` as people do: a process of its own, with the environment of one test's ledger."""

import json
import os
import subprocess
import sys
from typing import Any

from db.access import Scope
from domain.settings import REPOSITORY_ROOT, Settings


def environment(settings: Settings) -> dict[str, str]:
    """The LEDGERLINE_* variables that name the test's ledger, and none of the caller's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    assert settings.postgres_dsn is not None
    return inherited | {
        "LEDGERLINE_HOME": str(settings.home),
        "LEDGERLINE_KAFKA_BOOTSTRAP": str(settings.kafka_bootstrap),
        "LEDGERLINE_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "LEDGERLINE_REGISTRY_URL": str(settings.registry_url),
        "LEDGERLINE_TOPIC_PREFIX": settings.topic_prefix,
        "LEDGERLINE_LANES": str(settings.lanes),
        "COLUMNS": "160",
    }


def run(variables: dict[str, str], *arguments: str, code: int = 0, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command and expect its exit code; whatever happens, no traceback is shown."""
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=REPOSITORY_ROOT,
        env=variables,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def all_scopes() -> list[str]:
    """The options that give a key every scope."""
    return [word for scope in Scope for word in ("--scope", scope.value)]


def run_json(variables: dict[str, str], *arguments: str, code: int = 0) -> Any:
    """The JSON that a command prints with --json."""
    return json.loads(run(variables, *arguments, "--json", code=code).stdout)
