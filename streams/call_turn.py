"""One turn of the outside calls: store results, tell the handlers, claim what is due, prepare it. See decision 32."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import structlog
from prometheus_client import Counter

from db.connections import TRANSIENT, Transaction
from db.outside_calls import Claim, ClaimedRow, claim, delay, store
from domain.effects import Effects
from domain.errors import Outage
from domain.outside_calls import (
    Answer,
    ClaimedCall,
    Failure,
    Fate,
    Meaning,
    Request,
    Result,
    parse_retry_after,
)
from streams.call_handlers import CallHandler, CallHandlers

T = TypeVar("T")
logger: Final = structlog.get_logger(__name__)

HANDLER_PAUSE_MICROSECONDS: Final = 60_000_000
CALLS: Final = Counter(
    "ledgerline_outside_calls", "Attempts of outside calls, by what became of them.", ["kind", "result"]
)


class Attempt(NamedTuple):
    """A claimed call, and the request to send for it."""

    call: ClaimedCall
    request: Request
    asks: bool
    """Whether the request asks what became of the call."""


class Tried(NamedTuple):
    """An attempt, and what came of it."""

    attempt: Attempt
    found: Answer | Failure
    latency_microseconds: int = 0


def take_turn(
    transaction: Transaction,
    handlers: CallHandlers,
    apply_effects: Callable[[Transaction, str, Effects], None],
    tried: Sequence[Tried],
    *,
    now: int,
    lease_seconds: float,
    after: str,
    room: int,
    each_max: int,
    rooms: Mapping[str, int],
    chance: float,
) -> tuple[list[Attempt], str]:
    """Store what was tried, and claim at most `room` calls of destinations after `after`.

    Return the requests to send after the commit, and the destination to go on after. Times: microseconds since 1970.
    """
    turn = _Turn(transaction, handlers, apply_effects, now, chance)
    turn.settle([turn.judge(item)._replace(latency_microseconds=item.latency_microseconds) for item in tried])
    if room <= 0:
        return [], after
    lease_end = now + int(lease_seconds * 1e6)
    rows, last = claim(transaction, Claim(now, lease_end, after, room, each_max, rooms))
    attempts = turn.prepare(rows)
    # A full turn may not have seen the destinations after the last that it claimed of.
    return attempts, max(row.destination for row in rows) if len(rows) >= room else last


class _Turn:
    def __init__(
        self,
        transaction: Transaction,
        handlers: CallHandlers,
        apply_effects: Callable[[Transaction, str, Effects], None],
        now: int,
        chance: float,
    ) -> None:
        self._transaction = transaction
        self._handlers = handlers
        self._apply_effects = apply_effects
        self._now = now
        self._chance = chance
        self._unsure: set[int] = set()

    def judge(self, item: Tried) -> Result:
        """Return the result of an attempt, by its handler and the retry plan."""
        (call, _, asks), found, _ = item
        handler = self._handlers[call.kind]
        try:
            meaning = handler.judge_asked(call, found) if asks else handler.judge(call, found)
        except Exception as error:
            logger.exception("a handler failed to judge an answer", kind=call.kind, call_id=call.call_id)
            return self._make_later(handler, call, None, f"the handler failed: {error!r}", is_unsure=True)
        answer = found if isinstance(found, Answer) else None
        reason = f"the answer has status {found.status}" if isinstance(found, Answer) else found.reason
        if meaning is Meaning.DONE:
            return Result(call, Fate.DONE, answer, "", None)
        if meaning is Meaning.REFUSED:
            return Result(call, Fate.REFUSED, answer, reason, None)
        is_unsure = meaning is Meaning.UNKNOWN and (asks or handler.can_ask or not handler.repeat_is_safe)
        return self._make_later(handler, call, answer, reason, is_unsure=is_unsure)

    def _make_later(
        self, handler: CallHandler, call: ClaimedCall, answer: Answer | None, reason: str, *, is_unsure: bool
    ) -> Result:
        if is_unsure and not handler.can_ask and not handler.repeat_is_safe:
            return Result(call, Fate.UNKNOWN, answer, reason, None)
        retry_after = parse_retry_after(answer.retry_after, self._now) if answer is not None else None
        # Each call of a turn gets its own part of the jitter.
        chance = (self._chance + call.call_id * 0.618034) % 1.0
        pause_seconds = handler.plan.find_delay(call.attempts, chance, retry_after)
        if pause_seconds is None:
            return Result(call, Fate.UNKNOWN if is_unsure else Fate.GIVEN_UP, answer, reason, None)
        if is_unsure:
            self._unsure.add(call.call_id)
        return Result(call, Fate.LATER, answer, reason, self._now + int(pause_seconds * 1e6))

    def settle(self, results: Sequence[Result]) -> None:
        """Store results and tell the handlers those that count."""
        if not results:
            return
        stored = store(self._transaction, results, self._unsure)
        for kind, group in _group([r for r in results if r.call.call_id in stored], lambda r: r.call.kind).items():
            self._tell(kind, group)
            for result in group:
                CALLS.labels(kind, result.fate.value).inc()

    def _tell(self, kind: str, results: Sequence[Result]) -> None:
        """Tell a handler. If it fails on several, tell each alone; what it fails on is told again later."""
        try:
            with self._transaction.transaction():
                self._apply_effects(self._transaction, kind, self._handlers[kind].settle(self._transaction, results))
        except (*TRANSIENT, Outage):
            raise
        except Exception as error:
            if len(results) > 1:
                for result in results:
                    self._tell(kind, [result])
                return
            logger.exception("a handler failed on a result", kind=kind, call_id=results[0].call.call_id)
            if results[0].fate is not Fate.LATER:
                self._delay(results[0].call, f"the handler failed on the result: {error!r}")

    def _delay(self, call: ClaimedCall, reason: str) -> None:
        delay(self._transaction, call, self._now + HANDLER_PAUSE_MICROSECONDS, reason)

    def prepare(self, rows: Sequence[ClaimedRow]) -> list[Attempt]:
        """Return the attempts of claimed rows. Settle at once those for which nothing is to be sent."""
        attempts: list[Attempt] = []
        settled: list[Result] = []
        for kind, group in _group(rows, lambda row: row.kind).items():
            handler = self._handlers.get(kind)
            if handler is None:
                for row in group:
                    self._delay(row.call, "this release has no handler for the kind")
                continue
            told = [row for row in group if row.fate is not None]
            self._tell_again(kind, told)
            unsure = [row for row in group if row.fate is None and row.state_before in ("under_way", "unknown")]
            fresh = [row for row in group if row.fate is None and row.state_before == "waiting"]
            if unsure and not handler.can_ask:
                if handler.repeat_is_safe:
                    fresh += unsure
                else:
                    reason = "the worker stopped while the call was under way"
                    settled += [Result(row.call, Fate.UNKNOWN, None, reason, None) for row in unsure]
                unsure = []
            self._make(handler, unsure, True, attempts, settled)
            self._make(handler, fresh, False, attempts, settled)
        self.settle(settled)
        return attempts

    def _tell_again(self, kind: str, rows: Sequence[ClaimedRow]) -> None:
        if not rows:
            return
        results = [
            Result(
                row.call,
                Fate(row.fate or Fate.UNKNOWN),
                Answer(row.answer_status, row.answer_body or b"") if row.answer_status is not None else None,
                row.last_failure,
                None,
            )
            for row in rows
        ]
        stored = store(self._transaction, results, set())
        self._tell(kind, [result for result in results if result.call.call_id in stored])

    def _make(
        self,
        handler: CallHandler,
        rows: Sequence[ClaimedRow],
        asks: bool,
        attempts: list[Attempt],
        settled: list[Result],
    ) -> None:
        """Let a handler make the requests. If it fails on several, ask for each alone; what it fails on waits."""
        if not rows:
            return
        calls = [row.call for row in rows]
        requests: Sequence[Request | None]
        try:
            with self._transaction.transaction():
                requests = handler.ask(self._transaction, calls) if asks else handler.prepare(self._transaction, calls)
                made = list(zip(calls, requests, strict=True))
        except (*TRANSIENT, Outage):
            raise
        except Exception as error:
            if len(rows) > 1:
                for row in rows:
                    self._make(handler, [row], asks, attempts, settled)
                return
            logger.exception("a handler failed to make a request", kind=calls[0].kind, call_id=calls[0].call_id)
            # Nothing was sent, so the plan's pause does; an unknown outcome stays unknown.
            settled.append(self._make_later(handler, calls[0], None, f"the handler failed: {error!r}", is_unsure=asks))
            return
        for call, request in made:
            if request is None:
                reason = "the call is not wanted any more"
                settled.append(Result(call, Fate.GIVEN_UP, None, reason, None, is_wanted=False))
            else:
                attempts.append(Attempt(call, request, asks))


def _group(items: Sequence[T], get_kind: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[get_kind(item)].append(item)
    return groups
