"""A relay that works in one process at a time, while those of other processes stand by."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from prometheus_client import Gauge

from db.connections import TRANSIENT
from db.worker import WorkerConnection
from domain.errors import Outage
from producers.relay_core import RelayFenced, TransactionalRelay

logger: Final = structlog.get_logger(__name__)

STANDBY: Final = Gauge(
    "ledgerline_worker_standby", "1 if another worker runs this part, and this one stands by.", ["part"]
)
LOOK_SECONDS: Final = 1.0
KEEP_SECONDS: Final = 5.0
"""How often a running relay says that it still has its turn. Postgres gives the turn of a silent session away."""


class StandbyRelay:
    """Runs a relay while its connection holds the part's lock in Postgres.

    The lock only keeps two workers from fencing each other in turn. Kafka's transactional id is what makes a second
    relay harmless: if the lock goes with its connection, the next relay fences this one, which then stands by.
    """

    def __init__(self, turn: WorkerConnection, relay: TransactionalRelay[Any]) -> None:
        self.name = relay.name
        self._turn = turn
        self._relay = relay
        self._is_running = False
        self._progressed_at = time.monotonic()

    @property
    def progressed_at(self) -> float:
        """Monotonic time of the last progress."""
        return self._relay.progressed_at if self._is_running else self._progressed_at

    def missing(self) -> str | None:
        """Return what the relay waits for; None if it stands by."""
        return self._relay.missing() if self._is_running else None

    def run(self, stop: threading.Event) -> None:
        """Relay or stand by until `stop` is set. Raise RelayAhead if the outbox is behind what was published."""
        try:
            while not stop.is_set():
                self._progressed_at = time.monotonic()
                is_turn = self._take_turn()
                STANDBY.labels(self.name).set(0 if is_turn else 1)
                if is_turn:
                    self._relay_until(stop)
                else:
                    stop.wait(LOOK_SECONDS)
        finally:
            self._relay.close()
            self._turn.close()

    def _relay_until(self, stop: threading.Event) -> None:
        self._relay.progressed_at = time.monotonic()
        self._is_running = True
        try:
            with self._keep_turn():
                self._relay.run(stop)
        except RelayFenced as error:
            logger.info("stands by", part=self.name, cause=str(error))
            self._relay.close()
            self._turn.close()  # gives the lock back
            stop.wait(LOOK_SECONDS)
        finally:
            self._is_running = False

    @contextmanager
    def _keep_turn(self) -> Iterator[None]:
        """Keep the turn within the block. The relay cannot do so itself: it may wait for Kafka for a minute.

        After Postgres was away, take the turn again. If another worker was faster, its relay fences this one.
        """
        done = threading.Event()

        def keep() -> None:
            while not done.wait(KEEP_SECONDS):
                self._take_turn()

        keeper = threading.Thread(target=keep, name=f"{self.name} turn")
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def _take_turn(self) -> bool:
        try:
            return self._turn.take_turn(self.name)
        except (*TRANSIENT, Outage) as error:
            logger.warning("waiting", part=self.name, cause=str(error).strip(), seconds=LOOK_SECONDS)
            return False
