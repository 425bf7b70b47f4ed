"""A folder that only one process at a time may use: the process that holds the lock on owner.lock in it."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from ops.embedded.errors import EmbeddedError

NAME: Final = "owner.lock"


class Ownership:
    """The ownership of one folder, from `take` until `give_back` or until the process ends in any way.

    `taken` takes the owner's process id and returns the error message for a second process.
    """

    def __init__(self, folder: Path, taken: Callable[[str], str]) -> None:
        self._folder = folder
        self._taken = taken
        self._lock: IO[str] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether this process owns the folder."""
        return self._lock is not None

    def take(self) -> None:
        """Become the owner and make the folder if it is missing; raise EmbeddedError if another process owns it."""
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
        """Give up the folder; does nothing if this process does not own it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
