"""Bounds on concurrent use: in all, by one tenant, by one key."""

from typing import Final, NamedTuple


class Bounds(NamedTuple):
    """The most that may be in use at once. Each bound is at least 1, and in_all >= by_tenant >= by_key."""

    in_all: int
    by_tenant: int
    by_key: int

    @classmethod
    def parse(cls, text: str) -> "Bounds":
        """Parse `2000/1000/500`: in all, by tenant, by key. Raise ValueError for anything else."""
        parts = text.split("/")
        if len(parts) != len(cls._fields) or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError("give three numbers: in all, by tenant and by key, such as 100/25/10")
        bounds = cls(*(int(part) for part in parts))
        if not bounds.in_all >= bounds.by_tenant >= bounds.by_key >= 1:
            raise ValueError("a key's share must be at least 1 and at most its tenant's, and that at most the whole")
        return bounds

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "/".join(str(bound) for bound in self)


class ShareBounds(NamedTuple):
    """The bounds of everything that one API process shares among its clients. The settings have the same defaults."""

    requests: Bounds = Bounds(2000, 1000, 500)
    body_bytes: Bounds = Bounds(128_000_000, 64_000_000, 32_000_000)
    event_streams: Bounds = Bounds(100, 25, 10)
    reads: Bounds = Bounds(5, 3, 2)
    """Connections of the main pool, for reads that take milliseconds."""
    heavy_reads: Bounds = Bounds(2, 1, 1)
    """Connections of a separate pool, for reads that may take seconds."""
    read_wait_seconds: float = 2.0
    """How long a read waits for its turn."""


SHARE_BOUNDS: Final = ShareBounds()
