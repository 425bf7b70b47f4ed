"""The pause before something that died is started again."""


class BackOff:
    """A pause that doubles from the first failure on, is bounded, and starts anew after a good long run."""

    def __init__(
        self, *, first_seconds: float = 0.5, most_seconds: float = 30.0, forgiven_after_seconds: float = 60.0
    ) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._forgiven_after_seconds = forgiven_after_seconds
        self.failures = 0

    def next_seconds(self, ran_seconds: float) -> float:
        """Return the pause after a run that ended after so many seconds."""
        if ran_seconds >= self._forgiven_after_seconds:
            self.failures = 0
        self.failures += 1
        # The exponent is bounded because a float's is.
        return min(self._most_seconds, self._first_seconds * 2.0 ** min(self.failures - 1, 30))
