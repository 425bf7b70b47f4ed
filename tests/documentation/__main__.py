"""`python -m tests.documentation FILE`: run a document's commands, and write their present output into it.

Output with `...` in it was chosen by hand, and stays. Read the diff before you commit it.
"""

import signal
import sys
import tempfile
from pathlib import Path

from runtime.settings import REPOSITORY_ROOT
from tests.documentation.sessions import steps
from tests.documentation.shell import Shell
from tests.documentation.test_commands import OWN_LEDGER, reason_not_to_run


def main(name: str) -> None:
    """Update one document."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that SIGTERM stops the ledger as well
    path = REPOSITORY_ROOT / name
    lines = path.read_text().splitlines()
    with tempfile.TemporaryDirectory(prefix="ledgerline-documents-") as folder:
        shell = Shell(Path(folder) / "checkout")
        try:
            if name not in OWN_LEDGER:
                shell.run("ledgerline up")
            shown: list[tuple[int, int, list[str]]] = []
            for step in steps(path, name):
                if reason_not_to_run(step) is None:
                    sys.stderr.write(f"{step}\n")
                    code, printed = shell.run(step.command)
                    sys.stderr.write("".join(f"    {line}\n" for line in [*printed, f"[{code}]"]))
                    if "..." not in step.shown:
                        shown.append((step.end, len(step.shown), [line for line in printed if line.strip()]))
        finally:
            shell.close()
    for end, count, printed in reversed(shown):
        lines[end : end + count] = printed
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
