"""What a worker knows of each destination of outside calls: calls under way, breaker, rate limit, a pause asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from domain.outside_calls import Breaker, Bucket, RateLimit

DESTINATIONS_MAX: Final = 10_000
"""Above this, destinations without trouble and without calls are forgotten."""


@dataclass
class Destination:
    """One destination, to this worker; times are monotonic seconds."""

    under_way: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    bucket: Bucket | None = None
    paused_until: float = 0.0

    def find_room(self, each_max: int, now: float) -> int:
        """Return how many calls may be claimed."""
        if self.breaker.is_open(now) or now < self.paused_until:
            return 0
        room = (1 if self.breaker.is_on_trial() else each_max) - self.under_way
        if self.bucket is not None:
            room = min(room, int(self.bucket.fill(now)))
        return max(room, 0)

    def is_plain(self, now: float) -> bool:
        """Return whether a new Destination would do as well."""
        bucket = self.bucket
        return (
            not self.under_way
            and not self.breaker.failures
            and now >= self.paused_until
            and (bucket is None or bucket.fill(now) >= bucket.limit.burst)
        )


class Destinations:
    """All destinations that this worker has called, by name. Not thread-safe."""

    def __init__(self, each_max: int) -> None:
        self._each_max = each_max
        self._known: dict[str, Destination] = {}

    def get(self, name: str) -> Destination:
        """Return a destination; a new one if it was not called yet."""
        return self._known.setdefault(name, Destination())

    def find_rooms(self, now: float) -> Mapping[str, int]:
        """Return the room of each destination that has less than a new one."""
        if len(self._known) > DESTINATIONS_MAX:
            self._known = {name: found for name, found in self._known.items() if not found.is_plain(now)}
        rooms = {name: found.find_room(self._each_max, now) for name, found in self._known.items()}
        return {name: room for name, room in rooms.items() if room < self._each_max}

    def begin(self, name: str, limit: RateLimit | None, now: float) -> float:
        """Count a call as under way; return the seconds that it must wait for its destination's rate limit."""
        destination = self.get(name)
        destination.under_way += 1
        if limit is None:
            return 0.0
        if destination.bucket is None or destination.bucket.limit != limit:
            destination.bucket = Bucket(limit, float(limit.burst), now)
        return destination.bucket.take(now)

    def count_open(self) -> int:
        """Return the number of destinations that are called no more, or on trial only."""
        return sum(found.breaker.is_on_trial() for found in self._known.values())
