"""The pause before a process that ended is started again."""


class BackOff:
    """A pause that doubles with each failure up to a maximum, and is short again after a long run (60 s)."""

    def __init__(
        self, *, first_seconds: float = 0.5, most_seconds: float = 30.0, forgiven_after_seconds: float = 60.0
    ) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._forgiven_after_seconds = forgiven_after_seconds
        self.failures = 0

    def compute_next_seconds(self, ran_seconds: float) -> float:
        """Return the pause after a run that ended after so many seconds."""
        if ran_seconds >= self._forgiven_after_seconds:
            self.failures = 0
        self.failures += 1
        # Bound the exponent: a float overflows above 2.0 ** 1023.
        return min(self._most_seconds, self._first_seconds * 2.0 ** min(self.failures - 1, 30))
