"""Files under the home are for the user who runs the ledger alone: journals, logs and passwords lie there."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runtime.key_names import key_file_names

PRIVATE_UMASK: Final = 0o077
"""The umask of our processes: their files have mode 0600 and their folders 0700."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
# The names that Ledgerline puts into a home. If a home holds other things too, its own mode is left alone.
_OURS: Final = frozenset({"bench", "cache", "data", "demo", "load", "load-report.md", *key_file_names()})


def make_private(home: Path, report: Callable[[str], None]) -> None:
    """Take every right of other users away from a home and from what lies in it, and tell how many paths had some.

    What is another user's, as the folder of a Postgres that runs as its own user, is left as it is. So is a folder
    that a group may pass through and not list, which is how that Postgres reaches its own.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = set(os.listdir(home))
    mended = 0
    if names <= _OURS:
        mended += _close(home)
    elif home.stat().st_mode & _OTHERS:
        report(f"{home} holds other things than Ledgerline's: its own mode is left, and only what is ours is private")
    for name in sorted(names & _OURS):
        mended += _close_all(home / name)
    if mended:
        report(f"other users had rights on {mended} files and folders under {home}: they have none now")


def _close_all(path: Path) -> int:
    mended = _close(path)
    if path.is_symlink() or path.lstat().st_uid != os.geteuid():
        return mended
    # Somebody may remove a file meanwhile.
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
    """Close one path to others; returns 1 where it was open."""
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
