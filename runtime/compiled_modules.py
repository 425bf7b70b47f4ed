"""Checks that the compiled modules match the sources beside them: an edited source must not run in its old form.

This module imports no module that may be compiled, so it can report the mismatch before such a module fails.
"""

from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from domain.errors import LedgerlineError

ROOT: Final = Path(__file__).resolve().parent.parent
LIBRARY: Final = f"domain/ledgerline__mypyc{EXTENSION_SUFFIXES[0]}"
"""The library that all compiled modules of this Python share. If it is missing, all modules run interpreted."""
RECORD: Final = "domain/ledgerline__mypyc.sha256"
"""What setup.py compiled: digest and path of each source, and of each file that its constants and types came from."""


class StaleModules(LedgerlineError):
    """A source has changed since it was compiled."""


def find_changed_sources(root: Path = ROOT) -> list[str]:
    """Return the sources that changed since compilation, or RECORD if it is missing; empty if nothing is compiled."""
    if not (root / LIBRARY).exists():
        return []
    record = root / RECORD
    if not record.exists():
        return [RECORD]
    compiled = [line.split("  ", 1) for line in record.read_text().splitlines()]
    return [path for digest, path in compiled if _compute_digest(root / path) != digest]


def refuse_stale(root: Path = ROOT) -> None:
    """Raise StaleModules if a source has changed since it was compiled."""
    changed = find_changed_sources(root)
    if changed:
        raise StaleModules(
            f"{', '.join(changed)} changed since the modules were compiled:"
            " run 'make install' to compile them again, or 'make interpreted' to run without them."
        )


def _compute_digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest() if path.exists() else ""
