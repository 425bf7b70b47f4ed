"""The one table of the capabilities: which handler answers which event, outcome, due item and outside answer.

A handler is a plain function. It gets a transaction and what happened, changes its capability's own state, and returns
effects. It raises if it cannot go on: the agent then parks what it got (streams.reactor), and goes on with the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from db.connections import Transaction
from domain.effects import Effects, Happened, Settled
from streams import schedules, webhook_calls, webhooks
from streams.call_handlers import CallHandler

Reaction = Callable[[Transaction, Happened], Effects]
OutcomeHandler = Callable[[Transaction, Settled], Effects]


class Due(Protocol):
    """Something of a capability that falls due, such as a schedule. The clock calls the methods (streams.clock).

    Times are microseconds since 1970.
    """

    name: str
    """Unique among all capabilities."""

    def claim(self, transaction: Transaction, now: int, items_max: int) -> Sequence[Any]:
        """Return items that are due, the oldest first, locked until the commit; skip what another clock has locked."""

    def get_due_time(self, item: Any) -> int:
        """Return when a claimed item fell due."""

    def act_all(self, transaction: Transaction, items: Sequence[Any], now: int) -> Effects:
        """Do what is due for all items, so that none of them is due any more at `now`. Any failure fails all.

        The clock then calls it again for each item alone.
        """

    def defer(self, transaction: Transaction, item: Any, until: int, reason: str) -> None:
        """Keep an item that `act` failed on from being due before `until`, with the reason for people."""


@dataclass(frozen=True)
class Capability:
    """What a capability registers. A part that it does not need stays empty."""

    name: str
    """The capability's stem, such as `schedules`. It stands in the keys of the capability's intents."""
    reactions: Mapping[tuple[str, str], Reaction] = field(default_factory=dict)
    """By family and type of the event."""
    outcome: OutcomeHandler | None = None
    due: Sequence[Due] = ()
    calls: Mapping[str, CallHandler] = field(default_factory=dict)
    """By kind of outside call (streams.outside_calls). A kind belongs to one capability."""


CAPABILITIES: Final[tuple[Capability, ...]] = (
    Capability("schedules", outcome=schedules.note_outcome, due=(schedules.DUE,)),
    Capability("webhooks", due=(webhook_calls.DueDeliveries(),), calls={webhooks.KIND: webhook_calls.WebhookCalls()}),
)
