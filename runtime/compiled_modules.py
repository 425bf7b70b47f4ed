"""Whether the compiled modules are those of the sources beside them: who edits one must not run what it was before.

Imports no module that may be compiled, so that it can speak before one of them fails.
"""

from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from domain.errors import LedgerlineError

ROOT: Final = Path(__file__).resolve().parent.parent
LIBRARY: Final = f"domain/ledgerline__mypyc{EXTENSION_SUFFIXES[0]}"
"""What all compiled modules of this Python share; where it is missing all runs interpreted."""
RECORD: Final = "domain/ledgerline__mypyc.sha256"
"""What setup.py compiled: digest and path of each source, and of those that constants and types came from."""


class StaleModules(LedgerlineError):
    """A source is not the one that was compiled."""


def changed_sources(root: Path = ROOT) -> list[str]:
    """The sources that were others when they were compiled; none where nothing is compiled."""
    if not (root / LIBRARY).exists():
        return []
    record = root / RECORD
    if not record.exists():
        return [RECORD]
    compiled = [line.split("  ", 1) for line in record.read_text().splitlines()]
    return [path for digest, path in compiled if _digest(root / path) != digest]


def refuse_stale(root: Path = ROOT) -> None:
    """Raise StaleModules where compiled modules are not those of their sources."""
    changed = changed_sources(root)
    if changed:
        raise StaleModules(
            f"{', '.join(changed)} changed since the modules were compiled:"
            " run 'make install' to compile anew, or 'make interpreted' to go without."
        )


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest() if path.exists() else ""
