"""The model of Postgres against real Postgres: the same script gives the same answers, refusals and waits on both.

So the model cannot drift from Postgres. The script uses several sessions, because it tests what one session sees of
another and what it waits for.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from db.posting import Lane, PostingStore
from db.relay import RelayStore
from domain.chart import DEFAULT_CHART, Chart
from domain.facts import OPERATORS_CHAIN, compute_fact_hash, get_lane_chain
from domain.hash_chain import chain_row
from domain.intents import Leg, compute_intent_id
from domain.journal import GENESIS_HASH, JournalRow
from domain.outcomes import Outcome
from streams.batches import Message, PartitionBatch
from streams.posting.poster import Poster
from streams.posting.published import Published
from streams.posting.signing import make_sign
from streams.posting.source import Source
from tests.posting_model import pair
from tests.simulation.broker import HOLE
from tests.simulation.database import Database, Process
from tests.simulation.judge import KEY
from tests.simulation.sessions import WAITS, Actor, Change, GreenletRunner, Runner, ThreadRunner, Turns
from tests.simulation.stores import SimulatedPostingStore, SimulatedRelayStore, done
from tests.simulation.world import Worker

CHART = Chart(DEFAULT_CHART)
BANK, ANN, BEN = ("default", "external:b"), ("default", "users:1"), ("default", "users:2")
CARL = ("default", "users:4")


def lines(*names: tuple[str, str]) -> dict[tuple[str, str], Any]:
    """Return the argument that open_accounts takes."""
    return {name: CHART.match(name[1]) for name in names}


def row(lane: int, seq: int, key: str, head: bytes = GENESIS_HASH, *legs: Leg, reverses: str | None = None) -> Any:
    """Return a journal row whose offset is its sequence number: posted if it has legs, else rejected."""
    fields: dict[str, Any] = dict.fromkeys(JournalRow._fields)
    fields |= {"lane": lane, "seq": seq, "source_topic": "t", "source_offset": seq, "detail": "", "metadata": {}}
    fields |= {
        "tenant": "default",
        "intent_id": compute_intent_id("default", key),
        "idempotency_key": key,
        "legs": legs,
    }
    fields |= {"outcome": Outcome.POSTED if legs else Outcome.REJECTED, "reason": "" if legs else "unbalanced"}
    fields |= {"fingerprint": key.encode(), "type": "reversal" if reverses else "transfer", "booked_time": seq}
    fields |= {"reverses": compute_intent_id("default", reverses) if reverses else None}
    return chain_row(head, JournalRow(**fields))


def reached(*rows: JournalRow, offset: int = 0) -> list[Lane]:
    """Return the lane as it stands after its rows."""
    last = rows[-1]
    return [Lane(last.lane, "t", "id", last.seq + 1 + offset, last.seq + 1, last.hash, last.booked_time)]


def commit_rows(actor: Actor, *rows: JournalRow, ids: dict[Any, int], changes: Sequence[Change] = ()) -> None:
    """Run a whole posting transaction."""
    actor.begin()
    actor.lanes([rows[0].lane], lock=True)
    actor.write(rows, ids, changes)
    actor.advance(reached(*rows))
    actor.end()


def script(one: Actor, two: Actor, three: Actor) -> None:
    """Run the script: what one session does, what the others see of it, and what they wait for."""
    for lane, first in ((0, 0), (1, 0), (0, 9)):
        one.make_lane(lane, "t", "id", first)
    ids, name = {BANK: 1, ANN: 2}, ("default", compute_intent_id("default", "fund"))
    fund = row(0, 0, "fund", GENESIS_HASH, *pair("external:b", "users:1", 10))
    one.begin()
    one.lanes([1, 0, 7], lock=True)
    two.begin()
    two.lanes([0], lock=True)
    three.lanes([0, 1])
    one.open_accounts(lines(BANK, ANN), get_lane_chain(0))
    one.accounts([ANN, BANK, BEN])
    three.accounts([ANN, BANK])
    one.write([fund], ids, [(1, "EUR", 0, 10, 0, 0), (2, "EUR", 0, 0, 10, 0)])
    one.settled([name])
    three.settled([name])
    one.advance(reached(fund))
    one.end()
    two.finish()
    three.settled([name])
    two.write([fund], ids)
    _intent_twice(one, two)
    _accounts(one, two)
    _refusals(one, fund, ids)
    _reversals(one, two, fund, ids)
    one.begin()
    one.lanes([0], lock=True)
    two.begin()
    two.lanes([1], lock=True)
    one.lanes([1], lock=True)
    one.outwait()
    two.lanes([0], lock=True)
    one.finish()
    one.end()


def _intent_twice(one: Actor, two: Actor) -> None:
    """Two lanes settle one intent at the same time: the second waits until the first ends."""
    first, second = row(1, 0, "both"), row(0, 1, "both")
    for commit in (False, True):
        one.begin()
        one.write([first], {})
        two.begin()
        two.write([second], {})
        if commit:
            one.advance(reached(first))
        one.end(commit=commit)
        two.finish()
        if not commit:
            two.end(commit=False)


def _accounts(one: Actor, two: Actor) -> None:
    """Two lanes open one account at the same time; then locks and balances; a number is never given twice."""
    one.begin()
    one.open_accounts(lines(BEN), get_lane_chain(0))
    two.begin()
    two.open_accounts(lines(BEN, ANN, CARL), get_lane_chain(1))
    one.end()
    two.finish()
    two.accounts([BEN])
    two.end()
    one.begin()
    one.open_accounts(lines(("default", "users:3")), get_lane_chain(0))
    one.accounts([("default", "users:3")])
    one.locked_balances([2, 1])
    two.begin()
    two.locked_balances([2])
    one.end(commit=False)
    two.finish()
    two.end()


def _refusals(one: Actor, fund: JournalRow, ids: dict[Any, int]) -> None:
    """Try what Postgres itself refuses."""
    lopsided = row(0, 1, "lopsided", fund.hash, Leg("external:b", 1, 5, "EUR"), Leg("users:1", -1, 4, "EUR"))
    plain = row(0, 1, "plain", fund.hash)
    for written, moved in (
        ([lopsided], None),
        ([plain], reached(plain, offset=1)),
        ([], reached(plain)),
        ([plain], [reached(plain)[0]._replace(head=fund.hash)]),
        ([plain._replace(reason="")], None),
        ([plain._replace(seq=3)], None),
        ([plain._replace(seq=0, source_offset=7)], None),
        ([plain, plain._replace(seq=2)], None),
    ):
        one.begin()
        one.write(written, ids)
        if moved is not None:
            one.advance(moved)
        if one._open is not None:
            one.end(commit=False)
    one.begin()
    one.write([], ids, [(1, "EUR", 0, 2**63 - 1, 0, 1)])
    one.write([], ids, [(1, "EUR", 0, 2**64, 0, 2)])
    one.locked_balances([1])
    one.end(commit=False)


def _reversals(one: Actor, two: Actor, fund: JournalRow, ids: dict[Any, int]) -> None:
    """Reversals of one original wait for each other, and each then sees the one before it."""
    asked = [("default", fund.intent_id), ("default", compute_intent_id("default", "never"))]
    back = row(0, 1, "back", fund.hash, *pair("users:1", "external:b", 4), reverses="fund")
    one.begin()
    one.originals(asked)
    two.begin()
    two.originals(asked[:1])
    one.lanes([0], lock=True)
    one.write([back], ids, [(2, "EUR", 0, 4, 0, 1)])
    one.advance(reached(back))
    one.end()
    two.finish()
    two.end()


def post(store: PostingStore) -> None:
    """Run the real poster over a store: transfers, duplicates, conflicts, reversals, unreadable bytes, a hole."""
    texts = (
        "fund external:b>users:1 10", "spend users:1>external:b 6", "spend users:1>external:b 6",
        "spend users:1>external:b 5", "back ~spend", "again ~spend", "part ~fund users:1>external:b 4", "?", HOLE,
        "most external:b>external:c max", "more external:b>external:c max", "poor users:9>external:b 1",
        "over external:b>external:c max + external:b>external:c 1",
    )  # fmt: skip
    ticks = iter(range(1000))
    poster = Poster(
        store,
        Worker.reader,
        lambda: Source("t", "id", {0: 0, 1: 0}, {0: len(texts), 1: 2}),
        lambda _, start, end: {offset for offset in range(start, end) if texts[offset] != HOLE},
        published=lambda lanes: {lane: Published() for lane in lanes},
        ask_topic_id=lambda: done("id"),
        now_microseconds=lambda: next(ticks),
        sign=make_sign(KEY),
    )
    poster.positions("t", [0, 1])
    both = [Message("t", 0, number, 0, None, text.encode(), ()) for number, text in enumerate(texts) if text != HOLE]
    poster.handle([PartitionBatch("t", 0, 0, both, len(texts))])
    poster.handle([PartitionBatch("t", 1, 0, [message._replace(partition=1) for message in both[:2]], 2)])


def answers(stores: Sequence[PostingStore], runners: Sequence[Runner]) -> list[Any]:
    """Return the trace of the script over three sessions."""
    trace: list[Any] = []
    one, two, three = (
        Actor(name, store, runner, trace)
        for name, store, runner in zip(("one", "two", "three"), stores, runners, strict=True)
    )
    script(one, two, three)
    return trace


@pytest.fixture
def real(database: str) -> Iterator[tuple[list[PostingStore], RelayStore, list[ThreadRunner]]]:
    """Three sessions of a fresh database, and one session of a relay."""
    stores, relay = [PostingStore(database) for _ in range(3)], RelayStore(database)
    runners = [ThreadRunner(database) for _ in stores]
    yield stores, relay, runners
    for used in (*stores, relay, *runners):
        used.close()


def model() -> tuple[list[PostingStore], RelayStore]:
    """Return the same sessions over the model."""
    database = Database(Turns())
    stores: list[PostingStore] = [
        SimulatedPostingStore(database, Process(name, database.scheduler)) for name in ("one", "two", "three")
    ]
    return stores, SimulatedRelayStore(database, Process("relay", database.scheduler))


def test_the_model_answers_as_postgres_does(real: Any) -> None:
    stores, relay, runners = real
    simulated, simulated_relay = model()
    told = answers(stores, runners)
    assert answers(simulated, [GreenletRunner() for _ in simulated]) == told
    kinds = {answer for _, _, answer in told if isinstance(answer, str)}
    refused = ("Collision", "BatchRefused", "DeadlockDetected")
    assert kinds == {WAITS, *(f"raises {name}" for name in refused)}
    compare_relays(simulated_relay, relay)
    for lane in (0, 1):
        assert comparable(simulated_relay.records(lane, 0, 9)) == comparable(relay.records(lane, 0, 9))


def test_the_poster_posts_the_same_on_both(real: Any) -> None:
    stores, relay, _ = real
    simulated, simulated_relay = model()
    post(stores[0])
    post(simulated[0])
    compare_relays(simulated_relay, relay)
    found = relay.records(0, 0, 99)
    assert len({record["reason"] or record["outcome"] for record in found}) == 8
    for lane in (0, 1):
        assert comparable(simulated_relay.records(lane, 0, 99)) == comparable(relay.records(lane, 0, 99))


def compare_relays(simulated: RelayStore, relay: RelayStore) -> None:
    """Both stores give the relay the same lanes and facts, except the operators' chain, which the model lacks."""
    standing = [lane for lane in relay.lanes(0, 1) if lane.lane != OPERATORS_CHAIN]
    shown = [lane._replace(booked_time=0) if lane.lane < 0 else lane for lane in standing]
    assert simulated.lanes(0, 1) == shown
    chains = [lane.lane for lane in standing if lane.lane < 0]
    assert chains
    for chain in chains:
        told, modelled = relay.facts(chain, 0, 99), simulated.facts(chain, 0, 99)
        assert [named(fact) for fact in modelled] == [named(fact) for fact in told]
        head = GENESIS_HASH
        for fact in told:
            assert (fact["previous_hash"], fact["hash"]) == (head, compute_fact_hash(head, fact))
            head = fact["hash"]


def named(fact: dict[str, Any]) -> dict[str, Any]:
    """Return a fact without the members that differ from run to run."""
    return {name: value for name, value in fact.items() if name not in TIMES_AND_HASHES}


TIMES_AND_HASHES = {"made_time", "booked_time", "author", "previous_hash", "hash"}


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records without `leg_count`, which only one of the two stores adds."""
    return [{name: value for name, value in record.items() if name != "leg_count"} for record in records]


def public(kind: type) -> dict[str, list[str]]:
    """Return the public methods that a store defines itself, each with its parameter names."""
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize(("kind", "simulated"), [(PostingStore, SimulatedPostingStore),
                                                 (RelayStore, SimulatedRelayStore)])  # fmt: skip
def test_the_model_has_the_methods_of_the_store(kind: type, simulated: type) -> None:
    assert {**public(kind), **public(simulated)} == public(kind)
    assert public(kind).keys() - public(simulated).keys() <= {"transaction"}, "inherited, as it is"
