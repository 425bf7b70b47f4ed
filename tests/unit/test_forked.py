"""A fork in place of a start is a process like any other: its own variables, output, exit code and signals."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.forked import Forked, can_fork


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The variables of a process that has no ledger."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    return inherited | {"LEDGERLINE_HOME": str(tmp_path)}


def test_it_has_its_own_variables_output_and_exit_code(variables: dict[str, str], tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    shown = Forked(("cli", "config", "show", "--json"), variables | {"LEDGERLINE_LANES": "7"}, out, errors)
    assert shown.wait(30) == 0
    (lanes,) = (row for row in json.loads(out.read_text()) if row["variable"] == "LEDGERLINE_LANES")
    assert (lanes["value"], lanes["from"]) == (7, "environment")
    assert Forked(("cli", "no-such-command"), variables, out, errors).wait(30) == 2
    assert "no-such-command" in errors.read_text()


def test_it_gets_signals_and_can_be_waited_for(variables: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Forked(("http.server", "--bind", "127.0.0.1", "0"), variables, log, log)
    with pytest.raises(subprocess.TimeoutExpired):
        server.wait(0.1)
    assert server.poll() is None
    os.kill(server.pid, 0)
    server.kill()
    assert server.wait(30) == -signal.SIGKILL
    server.terminate()


def test_what_python_reads_at_its_start_takes_a_start(variables: dict[str, str]) -> None:
    assert can_fork(variables)
    assert not can_fork(variables | {"PYTHONWARNINGS": "error"})
    assert not can_fork(variables | {"OTEL_TRACES_EXPORTER": "otlp"})
