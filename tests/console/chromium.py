"""A real Chromium: the machine's own; else Debian's, installed once if that is allowed."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

INSTALL_SECONDS_MAX = 420
NAMES = ("chromium", "chromium-browser", "google-chrome")
ADVICE = "The console's tests need Chromium: install it (Debian: apt-get install chromium)."


def chromium() -> str:
    """Return the browser's file. Raise AssertionError with advice if there is none and none can be installed."""
    found = _found()
    if found is not None:
        return found
    with Path(tempfile.gettempdir(), "ledgerline-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes may install it at the same time
        found = _found() or _installed()
    assert found is not None, ADVICE
    return found


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def _installed() -> str | None:
    rights = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (rights and shutil.which("sudo") is None):
        return None
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
        run = subprocess.run(
            [*rights, "apt-get", "-q", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS_MAX,
            check=False,
        )
        assert run.returncode == 0, f"{ADVICE} apt-get said: {run.stderr.strip()[-300:]}"
    return _found()
