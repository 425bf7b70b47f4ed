"""Bounds on what is used at once: in all, by one tenant, by one key."""

from typing import Final, NamedTuple


class Bounds(NamedTuple):
    """The most in use at once. None is below 1, and the narrower one is never above the wider one."""

    in_all: int
    by_tenant: int
    by_key: int

    @classmethod
    def parse(cls, text: str) -> "Bounds":
        """From `2000/1000/500`: in all, by tenant, by key; ValueError for anything else."""
        parts = text.split("/")
        if len(parts) != len(cls._fields) or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError("give three numbers: in all, by tenant and by key, such as 100/25/10")
        bounds = cls(*(int(part) for part in parts))
        if not bounds.in_all >= bounds.by_tenant >= bounds.by_key >= 1:
            raise ValueError("a key's share must be at least 1 and at most its tenant's, and that at most the whole")
        return bounds

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return "/".join(str(bound) for bound in self)


class ShareBounds(NamedTuple):
    """The bounds of everything that one API process shares out; the defaults are those of the settings."""

    requests: Bounds = Bounds(2000, 1000, 500)
    body_bytes: Bounds = Bounds(128_000_000, 64_000_000, 32_000_000)
    event_streams: Bounds = Bounds(100, 25, 10)
    reads: Bounds = Bounds(5, 3, 2)
    """Connections of the pool, for what is answered in milliseconds."""
    heavy_reads: Bounds = Bounds(2, 1, 1)
    """Connections of a pool of their own, for what may take seconds."""
    read_wait_seconds: float = 2.0
    """How long a read waits for its turn."""


SHARE_BOUNDS: Final = ShareBounds()
