"""A kept connection that hears Postgres' notifications."""

from typing import Any

from psycopg import Connection, Notify

from db.kept_connection import KeptConnection


class ListeningConnection(KeptConnection):
    """A kept connection that listens. A subclass subscribes in `_prepare`. Not thread-safe."""

    def _take(self, notification: Notify) -> None:
        """Take one notification; for subclasses that use more than its coming."""

    def _hear(self, connection: Connection[Any], seconds: float, stop_after: int | None = None) -> bool:
        """Take the notifications that come within `seconds`; return whether any came."""
        heard = list(connection.notifies(timeout=seconds, stop_after=stop_after))
        for notification in heard:
            self._take(notification)
        return bool(heard)

    def _hear_all(self, connection: Connection[Any], seconds: float) -> bool:
        """Wait at most `seconds` for a notification, then take all that have arrived; return whether any came.

        The caller's one look at the rows answers all of them.
        """
        came = self._hear(connection, seconds, stop_after=1)
        while came and self._hear(connection, 0):
            pass
        return came
