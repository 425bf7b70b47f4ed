"""The whole load of a chaos run: several clients over HTTP, and poison messages sent directly to Kafka."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from domain.errors import LedgerlineError
from domain.topics import Topics
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from tools.chaos.load.client import Client, Control
from tools.chaos.load.content import Content
from tools.chaos.load.poison import Poison
from tools.chaos.load.record import Record
from tools.chaos.oracle import Acknowledged

_INTENTS_FOR_EACH_POISON: Final = 100
# A started request ends within its own timeouts, and is not retried then.
_ABANDONED_SECONDS_MAX: Final = 30.0
_SHOWN_MAX: Final = 3


class LoadError(LedgerlineError):
    """The API left intents unanswered, or gave an answer that no fault explains."""


class Load:
    """A load that sends intents until `finish`. The seed decides the content of the intents, but not their timing.

    `api_urls` is called before each request, as processes come and go. `intents_per_second` is the rate of all clients
    together. It is a limit: clients wait in an outage, and do not make up for the wait afterwards.
    """

    def __init__(
        self,
        *,
        api_urls: Callable[[], Sequence[str]],
        api_key: str,
        kafka: Kafka,
        topics_prefix: str,
        registry: SchemaRegistry,
        seed: int,
        tenant: str = "default",
        clients: int = 3,
        intents_per_second: float = 300,
    ) -> None:
        self._record = Record(tenant)
        self._control = Control()
        self._clients = [
            Client(
                f"load-{number}",
                Content(seed, number, clients, tenant),
                self._record,
                self._control,
                api_urls=api_urls,
                api_key=api_key,
                tenant=tenant,
                intents_per_second=intents_per_second / clients,
            )
            for number in range(clients)
        ]
        self._poison = Poison(kafka, Topics(topics_prefix), registry, tenant, seed)
        self._poison.on_confirmed = lambda: self._record.count("poison")
        self._poison_seconds = _INTENTS_FOR_EACH_POISON / intents_per_second
        self._poisoner = threading.Thread(target=self._send_poison, name="load-poison", daemon=True)

    def start(self) -> None:
        """Start the load. Call it once only."""
        self.resume()
        self._poisoner.start()
        for client in self._clients:
            client.start()

    def pause(self) -> None:
        """Send no new intents until `resume`; unanswered intents are still retried."""
        self._control.running.clear()
        self._record.measure_gaps(False)

    def resume(self) -> None:
        """Send new intents again."""
        self._record.measure_gaps(True)
        self._control.running.set()

    def finish(self, deadline_seconds: float) -> None:
        """Stop sending new intents, and return when every intent is acknowledged or finally refused.

        Raise LoadError if an intent has no such answer in time, or if no fault explains an answer. With a deadline of 0
        no answers are expected: unanswered intents are counted as `unanswered`, and only wrong answers are errors.
        """
        self._control.stopping.set()
        self._control.running.set()
        self._record.measure_gaps(False)
        deadline = time.monotonic() + deadline_seconds
        threads_ended = [client.join(deadline) for client in self._clients]
        if self._poisoner.ident is not None:
            self._poisoner.join(max(0.0, deadline - time.monotonic()))
        unsent = self._poison.flush(lambda: time.monotonic() >= deadline)
        self._control.abandoned.set()
        if not all(threads_ended):
            until = time.monotonic() + _ABANDONED_SECONDS_MAX
            for client in self._clients:
                client.join(until)
        for client in self._clients:
            client.close()
        self._judge(deadline_seconds, unsent)

    def _judge(self, deadline_seconds: float, unsent: int) -> None:
        if self._record.wrong:
            shown = " ".join(self._record.wrong[:_SHOWN_MAX])
            raise LoadError(f"{self.counts['wrong']} answers are explained by no fault: {shown}")
        unanswered = self.counts["unanswered"]
        if deadline_seconds > 0 and (unanswered or unsent):
            raise LoadError(
                f"{unanswered} intents had no answer and {unsent} poisonous messages were not delivered within "
                f"{deadline_seconds:g} s: read the logs of the API processes."
            )

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """Every acknowledgement so far, including repeated ones; a new list each time."""
        return self._record.acknowledged()

    @property
    def counts(self) -> Counter[str]:
        """Counts of intents: sent, acknowledged, retried, unanswered, "answered pending", "refused 422" and so on.

        `poison` counts messages. "trouble ..." counts the answers and connection errors that led to a retry.
        """
        return self._record.counts

    @property
    def max_gap_seconds(self) -> float:
        """The longest time without an acknowledgement while there was load, including the current gap; in seconds."""
        return self._record.max_gap_seconds

    @property
    def last_acknowledged_at(self) -> float | None:
        """The time.monotonic() of the last acknowledgement; None before the first."""
        return self._record.last_acknowledged_at

    def _send_poison(self) -> None:
        try:
            while not self._control.stopping.wait(self._poison_seconds):
                if self._control.running.is_set():
                    self._poison.send()
        except Exception as error:  # noqa: BLE001 - finish raises it in the owner's thread
            self._record.note_wrong(f"The sender of poison failed: {error!r}.")
