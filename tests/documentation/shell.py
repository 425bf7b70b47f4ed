"""A shell as a reader of the documents would use it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from runtime.settings import REPOSITORY_ROOT

_MARK: Final = "--- the end of a command:"


class Shell:
    """A bash in a folder that looks like a checkout but keeps written files. Its ledger has its own home."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        for entry in REPOSITORY_ROOT.iterdir():
            if entry.name not in (".git", ".ledgerline"):
                (folder / entry.name).symlink_to(entry)
        self._command = folder.with_suffix(".command")
        home = folder / ".ledgerline"
        home.mkdir()
        cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
        (home / "cache").symlink_to(cache, target_is_directory=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=inherited
            | {
                "LEDGERLINE_HOME": str(home),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "COLUMNS": "100",
                "PYTHONWARNINGS": "default",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, list[str]]:
        """Run one command; return its exit code and its output, line by line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # The command goes through a file. So an unclosed quote is an error, and the command cannot read the next input.
        self._command.write_text(f"{command}\n")
        self.process.stdin.write(f". {self._command} < /dev/null\nprintf '\\n%s %s\\n' '{_MARK}' $?\n")
        self.process.stdin.flush()
        printed: list[str] = []
        for line in self.process.stdout:
            if line.startswith(_MARK):
                return int(line.removeprefix(_MARK)), printed
            printed.append(line.rstrip("\n"))
        raise AssertionError(f"The shell ended in {command!r}: {printed}")

    def close(self) -> None:
        """Stop the ledger if it runs, and end the shell."""
        self.run("ledgerline down")
        self.process.communicate()
