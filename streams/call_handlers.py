"""What a capability registers for a kind of outside call. See docs/decisions/0032-outside-calls.md."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from db.connections import Transaction
from domain.effects import Effects
from domain.outside_calls import (
    Answer,
    ClaimedCall,
    Failure,
    Meaning,
    RateLimit,
    Request,
    Result,
    RetryPlan,
    judge_attempt,
)


class CallHandler(Protocol):
    """Makes the requests of a kind of call, and takes the results. `Defaults` has defaults for most of it."""

    repeat_is_safe: bool
    """Whether the other side does a call with the same key once only. If not, an unknown outcome is never repeated."""
    can_ask: bool
    """Whether `ask` finds out what became of a call with an unknown outcome."""
    plan: RetryPlan
    rate_limit: RateLimit | None
    """Of each destination; None: no limit."""
    kept_seconds: float | None
    """How long a settled call is kept, from when it was asked for; None: for ever. A key that is forgotten may be used
    again, so a kind keeps its calls for longer than anything can ask for the same call a second time."""

    def prepare(self, transaction: Transaction, calls: Sequence[ClaimedCall]) -> Sequence[Request | None]:
        """Return the request of each call, in order; None if the call is not wanted any more: it is then given up.

        The transaction is that of the claim, so it commits before a byte is sent. Raise if it cannot go on.
        """

    def ask(self, transaction: Transaction, calls: Sequence[ClaimedCall]) -> Sequence[Request]:
        """Return for each call the request that asks what became of it. Only called if `can_ask`."""

    def judge(self, call: ClaimedCall, found: Answer | Failure) -> Meaning:
        """Return what an attempt means. Pure; it runs between the attempts of others, so it must be quick."""

    def judge_asked(self, call: ClaimedCall, found: Answer | Failure) -> Meaning:
        """Return what became of a call, by what `ask` found. Pure. NOT_DONE: the call is sent again."""

    def settle(self, transaction: Transaction, results: Sequence[Result]) -> Effects:
        """Take the results of attempts, also of those that are tried again (fate LATER), and return effects.

        A result with a final fate comes once in a committed transaction; one of LATER at most once.
        """


class Defaults:
    """A base for handlers: repeats are safe, nobody asks, HTTP's own rules, no rate limit, calls kept for ever."""

    repeat_is_safe: bool = True
    can_ask: bool = False
    plan: RetryPlan = RetryPlan()
    rate_limit: RateLimit | None = None
    kept_seconds: float | None = None

    def ask(self, transaction: Transaction, calls: Sequence[ClaimedCall]) -> Sequence[Request]:
        """Raise: this kind does not ask."""
        raise NotImplementedError(f"calls of this kind do not ask: {len(calls)} in {transaction!r}")

    def judge(self, call: ClaimedCall, found: Answer | Failure) -> Meaning:  # noqa: ARG002 - the protocol's
        """Return what HTTP's rules say."""
        return judge_attempt(found)

    def judge_asked(self, call: ClaimedCall, found: Answer | Failure) -> Meaning:  # noqa: ARG002 - the protocol's
        """Return UNKNOWN: a kind that asks must say how it reads the answer."""
        return Meaning.UNKNOWN


CallHandlers = Mapping[str, CallHandler]
"""By kind."""
