"""Fixtures that several unit tests use."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point LEDGERLINE_HOME at an empty folder without a ledger, and work there, because commands may write files."""
    for name in [name for name in os.environ if name.startswith("LEDGERLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LEDGERLINE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
