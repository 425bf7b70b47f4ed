"""A folder that one process at a time may use, as the lock on its owner.lock says."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from ops.embedded.errors import EmbeddedError

NAME: Final = "owner.lock"


class Ownership:
    """Of one folder, from `take` until `give_back` or the end of the process, however it ends.

    `taken` makes the sentence for who comes second, of the id of the process that has it.
    """

    def __init__(self, folder: Path, taken: Callable[[str], str]) -> None:
        self._folder = folder
        self._taken = taken
        self._lock: IO[str] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether this process has it."""
        return self._lock is not None

    def take(self) -> None:
        """Become the owner, and make the folder where it is not there; EmbeddedError where another process is it."""
        if self._lock is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / NAME).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise EmbeddedError(self._taken(owner)) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def give_back(self) -> None:
        """Own it no longer; harmless where it is not owned."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
