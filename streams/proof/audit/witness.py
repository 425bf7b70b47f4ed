"""Witnesses outside Postgres and Kafka: each gets every checkpoint, and `audit verify` compares it with the ledger.

The witness itself is read to learn what it has, so no table can claim a checkpoint that the witness lacks.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from domain.checkpoints import CheckpointRow, LaneHead, make_signed_members
from domain.errors import LedgerlineError, Outage
from runtime.settings import Settings
from streams.proof.audit.kept import Kept, KeptError, read_line

GIT_FILE: Final = "checkpoints.jsonl"
GIT_SECONDS_MAX: Final = 20.0
TAIL_BYTES: Final = 1 << 20


class WitnessError(LedgerlineError):
    """The settings name a witness that cannot work as one."""


class WitnessAway(Outage):
    """A witness cannot be read or written now."""


class Witness(Protocol):
    """A store of checkpoints in order, one JSON object per line."""

    name: str

    def find_next_checkpoint(self) -> int:
        """Return the number of the first checkpoint that the witness lacks."""

    def add(self, checkpoints: Iterable[tuple[CheckpointRow, Sequence[LaneHead]]]) -> None:
        """Store these checkpoints, in order."""

    def lines(self) -> list[str]:
        """Return all lines, without line ends."""

    def find_history_faults(self) -> list[str]:
        """Return the faults in the witness's own history: the places where lines were removed."""


def make_line(row: CheckpointRow, heads: Sequence[LaneHead]) -> str:
    """Return a checkpoint as a line."""
    return json.dumps(make_signed_members(row, heads), separators=(",", ":"), sort_keys=True)


class FileWitness:
    """A file that is only appended to. It proves something if nobody who can change the ledger can change the file."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def find_next_checkpoint(self) -> int:
        """Return the number after the checkpoint in the last whole line."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                tail = file.read()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise WitnessAway(f"The witness {self.name} cannot be read: {error.strerror}.") from error
        for line in reversed(tail.split(b"\n")[:-1]):
            try:
                return read_line(self.name, line.decode()).row.checkpoint + 1
            except (KeptError, UnicodeDecodeError):
                continue  # a crash cut the line off, or it is no checkpoint; `audit verify` reports it
        return 0

    def add(self, checkpoints: Iterable[tuple[CheckpointRow, Sequence[LaneHead]]]) -> None:
        """Append the checkpoints and wait until they are on disk (fsync)."""
        text = "".join(f"{make_line(row, heads)}\n" for row, heads in checkpoints).encode()
        try:
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", 0) as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":
                        text = b"\n" + text
                file.write(text)
                os.fsync(file.fileno())
        except OSError as error:
            raise WitnessAway(f"The witness {self.name} cannot be written: {error.strerror}.") from error

    def lines(self) -> list[str]:
        """Return all lines; none if the file is gone."""
        try:
            return self._path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WitnessAway(f"The witness {self.name} cannot be read: {error.strerror}.") from error

    def find_history_faults(self) -> list[str]:
        """Return no faults, as a file has no history."""
        return []


class GitWitness:
    """A file in a Git repository, with a commit for each call of `add`. An attacker here cannot change its clones."""

    def __init__(self, repository: Path) -> None:
        self.name = f"{repository} (Git)"
        self._repository = repository
        self._file = FileWitness(repository / GIT_FILE)
        try:
            self._run_git("rev-parse", "--show-toplevel")
        except WitnessAway as error:
            raise WitnessError(f"{repository} is no Git repository that can be read: {error}") from error

    def find_next_checkpoint(self) -> int:
        """Return the number after the last committed checkpoint; what a crash left uncommitted is written again."""
        committed = self.lines()
        if not committed:
            return 0
        try:
            return read_line(self.name, committed[-1]).row.checkpoint + 1
        except KeptError:
            return self._file.find_next_checkpoint()

    def add(self, checkpoints: Iterable[tuple[CheckpointRow, Sequence[LaneHead]]]) -> None:
        """Append the checkpoints to the file and commit it."""
        self._file.add(checkpoints)
        self._run_git("add", "--", GIT_FILE)
        last = self._file.find_next_checkpoint() - 1
        identity = ("-c", "user.name=Ledgerline audit", "-c", "user.email=audit@ledgerline.invalid")
        self._run_git(*identity, "commit", "-q", "--no-gpg-sign", "-m", f"Checkpoints up to {last}", "--", GIT_FILE)

    def lines(self) -> list[str]:
        """Return all committed lines."""
        if not self._run_git("ls-tree", "HEAD", "--", GIT_FILE, may_fail=True).strip():
            return []
        return self._run_git("show", f"HEAD:{GIT_FILE}").splitlines()

    def find_history_faults(self) -> list[str]:
        """Return the commits that removed lines. A rewritten history can be noticed only with the help of a clone."""
        if not self.lines():
            return []
        faults = []
        commit = ""
        for line in self._run_git("log", "--format=commit %H", "--numstat", "--", GIT_FILE).splitlines():
            if line.startswith("commit "):
                commit = line.removeprefix("commit ")
            elif line and line.split("\t")[1] != "0":
                faults.append(f"The commit {commit[:12]} took {line.split(chr(9))[1]} lines away.")
        return faults

    def _run_git(self, *arguments: str, may_fail: bool = False) -> str:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        command = ["git", "-C", str(self._repository), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=GIT_SECONDS_MAX, env=environment, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WitnessAway(f"Git does not run on the witness {self.name}: {error}.") from error
        if done.returncode and not may_fail:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise WitnessAway(f"Git fails on the witness {self.name}: {said[-1] if said else done.returncode}.")
        return done.stdout if not done.returncode else ""


def make_witnesses(settings: Settings) -> list[Witness]:
    """Return the witnesses that the settings name."""
    made: list[Witness] = []
    if settings.audit_witness_file is not None:
        made.append(FileWitness(settings.audit_witness_file))
    if settings.audit_witness_git is not None:
        made.append(GitWitness(settings.audit_witness_git))
    return made


def read_witness(witness: Witness) -> tuple[list[Kept], list[tuple[str, str]]]:
    """Return the checkpoints of a witness, and a (place, sentence) for each line that is no checkpoint."""
    kept: list[Kept] = []
    strange: list[tuple[str, str]] = []
    for number, line in enumerate(witness.lines(), 1):
        place = f"{witness.name} line {number}"
        try:
            kept.append(read_line(place, line))
        except KeptError:
            strange.append((place, "The line is no checkpoint."))
    return kept, strange


def find_gaps(kept: Sequence[Kept]) -> list[Any]:
    """Return the numbers of checkpoints that are missing below the highest one of a witness; at most 100."""
    numbers = {item.row.checkpoint for item in kept}
    return [number for number in range(max(numbers, default=-1)) if number not in numbers][:100]
