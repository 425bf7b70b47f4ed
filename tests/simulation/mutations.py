"""Parts with one safeguard removed each. The tests check that the simulation then finds a violation."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from db.connections import TRANSIENT
from db.posting import Lane
from domain.decision import IntentName
from domain.signed_heads import SignedHead
from domain.topics import Topics
from producers.relay import Relay
from streams.engine import Fetch
from streams.fenced import _Runner
from streams.posting.lookups import Found
from streams.posting.poster import Poster
from streams.posting.reading import Work
from streams.posting.source import TopicIdAnswer
from tests.simulation.broker import SimulatedProducer
from tests.simulation.database import GUARDS
from tests.simulation.stores import SimulatedPostingStore, done
from tests.simulation.world import Parts


class UnfencedPoster(Poster):
    """Believes that each lane stands where its batch begins."""

    def _post_once(self, work: Sequence[Work], topic_id: TopicIdAnswer, *, is_poison: bool) -> None:
        begins: dict[int, int] = {}
        for item in work:
            begins.setdefault(item.event.lane, item.event.offset)
        self._store.begins = begins  # type: ignore[attr-defined]
        super()._post_once(work, topic_id, is_poison=is_poison)


class UnfencedStore(SimulatedPostingStore):
    """Reports locked lanes at the offsets that the poster believes."""

    begins: dict[int, int]

    def lanes(self, lanes: Iterable[int], *, lock: bool = False) -> dict[int, Lane]:
        """See the class."""
        found = super().lanes(lanes, lock=lock)
        return {n: row._replace(next_offset=self.begins[n]) for n, row in found.items()} if lock else found


class ForgetfulStore(SimulatedPostingStore):
    """Reports every intent as not yet settled."""

    def look_up_settled(self, names: Sequence[IntentName]) -> Future[dict[IntentName, bytes]]:
        """See the class."""
        super().look_up_settled(names)
        return done({})


class UnlockedAccountsStore(SimulatedPostingStore):
    """Reads balances without a lock on their accounts."""

    def _lock_accounts(self, _: Sequence[int]) -> None:
        self._statement()


class EarlyBalancesStore(SimulatedPostingStore):
    """Locks the accounts, but reads their balances before it has the locks."""

    def locked_balances(self, account_ids: Sequence[int]) -> dict[tuple[int, str], int]:
        """See the class."""
        early = dict(self._database.tables["balance"])
        super().locked_balances(account_ids)
        balances: dict[tuple[int, str], int] = {}
        for (account_id, currency, _), (debits, credits, _) in early.items():
            balances[account_id, currency] = balances.get((account_id, currency), 0) + debits - credits
        return {holding: balance for holding, balance in balances.items() if holding[0] in account_ids}


class UnlockedOriginalsStore(SimulatedPostingStore):
    """Reads what is reversed so far without a lock against other reversals."""

    def _lock_originals(self, _: Sequence[IntentName]) -> None:
        self._statement()


class UnsigningStore(SimulatedPostingStore):
    """Moves lanes without storing the signed heads."""

    def advance(self, lanes: Sequence[Lane], signed: Mapping[int, SignedHead] = MappingProxyType({})) -> None:  # noqa: ARG002
        super().advance(lanes)


class HastyPoster(Poster):
    """Remembers accounts before the transaction that opened them has committed."""

    def _look_up(self, work: Sequence[Work], lanes: Mapping[int, Lane], *, is_poison: bool) -> tuple[list[Work], Found]:
        screened, found = super()._look_up(work, lanes, is_poison=is_poison)
        self._lookups.remember(found.accounts)
        return screened, found


class PessimisticRunner(_Runner):
    """Assumes that a commit with an unknown result failed, and does not look."""

    def _try_once(self, fetch: Fetch) -> None:
        batch = self._batch(fetch)
        if batch:
            self._handler.handle(batch)
            for part in batch:
                self._expected[next(tp for tp in self._expected if tp.partition == part.partition)] = part.end_offset


class OptimisticRunner(_Runner):
    """Assumes that a commit with an unknown result succeeded, and does not look."""

    def _try_once(self, fetch: Fetch) -> None:
        batch = self._batch(fetch)
        try:
            if batch:
                self._handler.handle(batch)
        except TRANSIENT:
            pass
        for part in batch:
            self._expected[next(tp for tp in self._expected if tp.partition == part.partition)] = part.end_offset


class EarlyReadingRelay(Relay):
    """Reads its position first, and fences earlier relays only after that."""

    def start(self) -> None:
        """See the class."""
        read = self._read_positions
        early = read(self._options.kafka, self._options.topics.relay)
        self._read_positions = lambda *_: early
        try:
            super().start()
        finally:
            self._read_positions = read


class TwoTransactionsProducer(SimulatedProducer):
    """Commits the records first, and then the positions in a second transaction."""

    def begin_transaction(self) -> None:
        """See the class."""
        super().begin_transaction()
        self._held: list[tuple[Any, ...]] = []

    def produce(self, topic: str, value: Any, key: bytes | None = None, *, partition: int = 0) -> None:
        """See the class."""
        if topic == Topics().relay:
            self._held.append((topic, value, key))
        else:
            super().produce(topic, value, key, partition=partition)

    def commit_transaction(self, timeout: float) -> None:
        """See the class."""
        held, self._held = self._held, []
        super().commit_transaction(timeout)
        super().begin_transaction()
        for record in held:
            super().produce(*record)
        super().commit_transaction(timeout)


class UnrelatedProducer(SimulatedProducer):
    """Gives each producer its own transactional id, and so fences no other producer."""

    def __init__(self, broker: Any, process: Any, settings: dict[str, Any]) -> None:
        number = len(broker.epochs)
        super().__init__(broker, process, {**settings, "transactional.id": f"relay-{number}"})


class Mutation(NamedTuple):
    """The removed safeguard, and the invariants that must find it."""

    parts: Parts
    invariants: frozenset[str]
    """At least one of these invariants must be violated."""
    runs_max: int
    """The most seeds that are tried."""
    lanes: tuple[tuple[str, ...], ...] | None
    """The lanes, if random lanes would show the fault too seldom."""


def _caught(parts: Parts, *invariants: str, runs_max: int = 1500, lanes: Any = None) -> Mutation:
    return Mutation(parts, frozenset(invariants), runs_max, lanes)


UNCHECKED: Final = GUARDS - {"lane_check", "journal_settled"}
ONCE, TWICE, DIES = "one row for each offset", "an intent is settled once", "no process dies of itself"
LIVENESS, TOPIC = "liveness", "the topic is the table"

MUTATIONS: Final = {
    # The check of the lanes refuses a second batch for the same offsets on every retry, so the worker gives up and
    # dies.
    "no fence": _caught(Parts(poster=UnfencedPoster, posting_store=UnfencedStore), DIES),
    "no fence, and no check behind it": _caught(
        Parts(poster=UnfencedPoster, posting_store=UnfencedStore, guards=UNCHECKED), ONCE
    ),
    # The unique index refuses a duplicate that the lookup missed, on every retry.
    "no look-up of settled intents": _caught(Parts(posting_store=ForgetfulStore), DIES),
    "no index of settled intents": _caught(Parts(guards=GUARDS - {"journal_settled"}), TWICE),
    "no look-up and no index of settled intents": _caught(
        Parts(posting_store=ForgetfulStore, guards=GUARDS - {"journal_settled"}), TWICE
    ),
    "no lock on accounts that are drawn down": _caught(Parts(posting_store=UnlockedAccountsStore), "floors"),
    "balances read before their accounts are locked": _caught(Parts(posting_store=EarlyBalancesStore), "floors"),
    "no lock on what is reversed": _caught(
        Parts(posting_store=UnlockedOriginalsStore),
        "no more is reversed than was moved",
        lanes=(
            ("fund1 external:b>users:1 10", "spend0 users:1>external:b 6", "back0 ~spend0"),
            ("fund2 external:b>users:2 10", "other external:b>external:c 1", "back1 ~spend0"),
        ),
    ),
    "accounts remembered before the commit": _caught(Parts(poster=HastyPoster), "entries name open accounts"),
    "heads that move without their signature": _caught(Parts(posting_store=UnsigningStore), "each head is signed"),
    "the relay reads its position first": _caught(Parts(relay=EarlyReadingRelay), TOPIC),
    "the position in a transaction of its own": _caught(Parts(producer=TwoTransactionsProducer), TOPIC),
    "each relay with an id of its own": _caught(Parts(producer=UnrelatedProducer), TOPIC),
    # No batch follows the one that was lost, so no check fails.
    "an unknown commit is taken for done": _caught(Parts(runner=OptimisticRunner), LIVENESS),
    "an unknown commit is taken for done, without fence and check": _caught(
        Parts(runner=OptimisticRunner, poster=UnfencedPoster, posting_store=UnfencedStore, guards=UNCHECKED),
        ONCE,
    ),
    "an unknown commit is taken for failed, without fence and check": _caught(
        Parts(runner=PessimisticRunner, poster=UnfencedPoster, posting_store=UnfencedStore, guards=UNCHECKED), ONCE
    ),
}  # fmt: skip

HARMLESS: Final = {
    # The fence finds that the lane has moved, and the worker seeks.
    "an unknown commit is taken for failed": Parts(runner=PessimisticRunner),
    # The lookups and the fence refuse everything that these guards would refuse.
    "no check of the lanes": Parts(guards=GUARDS - {"lane_check"}),
}
"""Removing one of these does no harm, because a second safeguard does its work.

Remove the fence too, and a violation is found.
"""
