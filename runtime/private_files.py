"""Makes files under the home private to the user who runs the ledger: journals, logs and passwords are there."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runtime.key_names import list_key_file_names

PRIVATE_UMASK: Final = 0o077
"""The umask of our processes: their files have mode 0600 and their folders 0700."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
# The names that Ledgerline puts into a home. If a home holds other things too, its own mode is left alone.
_OURS: Final = frozenset({"bench", "cache", "data", "demo", "load", "load-report.md", *list_key_file_names()})


def make_private(home: Path, report: Callable[[str], None]) -> None:
    """Remove all rights of other users from a home and what is in it, and report how many paths had such rights.

    A path that another user owns stays as it is, such as the folder of a Postgres that runs as its own user. So does a
    folder that its group may only pass through, not list: that Postgres needs it to reach its own folder.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = set(os.listdir(home))
    mended = 0
    if names <= _OURS:
        mended += _close(home)
    elif home.stat().st_mode & _OTHERS:
        report(f"{home} has other files than Ledgerline's: its own mode stays, and only Ledgerline's files are private")
    for name in sorted(names & _OURS):
        mended += _close_all(home / name)
    if mended:
        report(f"other users had rights on {mended} files and folders under {home}: they have none now")


def _close_all(path: Path) -> int:
    mended = _close(path)
    if path.is_symlink() or path.lstat().st_uid != os.geteuid():
        return mended
    # Another process may remove a file during the walk.
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            mended += _close(Path(folder, name))
        folders[:] = [name for name in folders if _is_own(Path(folder, name))]
    return mended


def _is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def _close(path: Path) -> int:
    """Remove the rights of others from one path; return 1 if there were any, else 0."""
    try:
        found = path.lstat()
        if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode) or not found.st_mode & _OTHERS:
            return 0
        if stat.S_ISDIR(found.st_mode) and found.st_mode & _OTHERS == stat.S_IXGRP:
            return 0
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
    except FileNotFoundError:
        return 0
    return 1
