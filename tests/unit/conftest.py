"""What unit tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ledger runs at this home, and none is named; the folder is the test's own, as a command may write into it."""
    for name in [name for name in os.environ if name.startswith("LEDGERLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LEDGERLINE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
