"""The previous release: its services run on this release's schema, and its readers read what this release writes."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from runtime.settings import REPOSITORY_ROOT

RELEASED: Final = "0.1.0"
COMMIT: Final = "40a462ef3c53196b27220a3e9d6d4f22ced582ef"
# The modules of that release for the command line and for a service in chaos.
COMMANDS: Final = "ops.cli"
CHAOS_SERVICE: Final = "ops.chaos.service"


def unpack(folder: Path) -> Path:
    """Put the released sources into a new folder, which can be a process' working directory; return the folder.

    The sources come from the git history. A shallow clone asks its origin for that one commit.
    """
    if _git("cat-file", "-e", f"{COMMIT}^{{commit}}").returncode:
        fetched = _git("fetch", "--quiet", "--depth", "1", "origin", COMMIT)
        if fetched.returncode:
            raise AssertionError(
                f"Release {RELEASED} ({COMMIT}) is not in this clone, and its origin does not give it:"
                f" {fetched.stderr.decode().strip()}. Clone with the history: git fetch --unshallow."
            )
    archive = _git("archive", "--format=tar", COMMIT, "api", "avro", "db", "domain", "ops", "producers", "streams")
    assert archive.returncode == 0, archive.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY_ROOT, capture_output=True, check=False)
