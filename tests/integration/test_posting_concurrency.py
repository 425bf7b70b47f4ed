"""Several workers on one ledger: fences, races for the same intent, deadlocks, floors under concurrent draws."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from db.connections import TRANSIENT
from domain.intents import Intent
from streams.fenced import FenceLost, PartitionBatch
from streams.posting.poster import Poster
from tests.posting_bench import PostingBench, eventually
from tests.posting_model import pair, reversal, script, transfer

MEET_SECONDS_MAX = 20.0


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Run each job in its own thread; return their results, or the exceptions that ended them."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures: list[Future[object]] = [pool.submit(job) for job in jobs]
    return [future.exception() or future.result() for future in futures]


class Meeting:
    """A fault hook that makes workers wait for each other when each first comes to a given point."""

    def __init__(self, point: str, parties: int = 2) -> None:
        self._point = point
        self._barrier = threading.Barrier(parties, timeout=MEET_SECONDS_MAX)
        self._met: set[int] = set()

    def __call__(self, point: str) -> None:
        """Wait for the others if this is the point, and this thread's first time there."""
        if point == self._point and threading.get_ident() not in self._met:
            self._met.add(threading.get_ident())
            self._barrier.wait()


def is_waiting_for_a_lock(bench: PostingBench) -> bool:
    """Return whether a worker waits for the lock of another's transaction."""
    found = bench.rows(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND starts_with(application_name, 'ledgerline_posting')"
    )
    return bool(found)


def open_accounts(bench: PostingBench, *moves: Intent) -> None:
    """Open the accounts of the moves, because a worker that opens an account makes others wait until its commit."""
    opening = [
        transfer(f"open-{account}", *pair("external:vault", account, 1)) for account in
        sorted({each.account for move in moves for each in move.legs})
    ]  # fmt: skip
    assert set(bench.post_now(opening)) == {"posted"}


# ------------------------------------------------------------------------------------------ one lane, two workers


@pytest.mark.parametrize("point", ["decoded", "decided", "written", "before_commit"])
def test_of_two_workers_on_one_lane_one_posts_and_one_loses_the_fence(bench: PostingBench, point: str) -> None:
    """The slow worker may be a zombie that left Kafka's group: the worker that locks the lane second finds it moved."""
    made = bench.batch(script("a external:b>users:1 5 | b users:1>external:b 3"))
    entered, leave = threading.Event(), threading.Event()

    def linger(at: str) -> None:
        if at == point:
            entered.set()
            assert leave.wait(MEET_SECONDS_MAX)

    def first() -> None:
        bench.new_poster(fault=linger).handle([made])

    def second() -> None:
        assert entered.wait(MEET_SECONDS_MAX)
        poster = bench.new_poster()
        if point == "decoded":  # nothing is locked yet, so the second worker posts first
            poster.handle([made])
            leave.set()
            return
        threading.Thread(target=release_when_waited_for).start()
        poster.handle([made])

    def release_when_waited_for() -> None:
        eventually(lambda: is_waiting_for_a_lock(bench), "the second worker waits for the lane")
        leave.set()

    outcomes = at_once(first, second)
    loser = 0 if point == "decoded" else 1
    assert isinstance(outcomes[loser], FenceLost)
    assert outcomes[1 - loser] is None
    assert bench.fates() == ["posted", "posted"]
    assert bench.balance("users:1") == -2
    bench.verify()


def test_a_zombie_with_two_lanes_loses_both_where_one_moved(bench: PostingBench) -> None:
    zombies = [bench.batch(script("a external:b>users:1 5"), 0), bench.batch(script("b external:b>users:1 5"), 1)]
    bench.new_poster().handle([bench.batch(script("c external:b>users:1 5"), 1)])
    with pytest.raises(FenceLost, match="lane 1 stands at 1, not at 0"):
        bench.poster.handle(zombies)
    assert (bench.fates(0), bench.fates(1)) == ([], ["posted"])
    bench.verify()


# ------------------------------------------------------------------------------------------ two lanes, one intent


@pytest.mark.parametrize("repetition", range(3))
def test_an_intent_settled_by_two_lanes_at_once_is_posted_once(bench: PostingBench, repetition: int) -> None:
    """Both workers look the intent up and find nothing before either writes."""
    (asked,) = moves = script(f"same{repetition} external:b>users:1 5")
    open_accounts(bench, asked)
    before = {lane: len(bench.fates(lane)) for lane in (0, 1)}
    batches = [bench.batch(moves, 0), bench.batch(moves, 1)]
    meeting = Meeting("decided")
    posters = [bench.new_poster(fault=meeting) for _ in batches]
    assert at_once(*(lambda p=p, b=b: p.handle([b]) for p, b in zip(posters, batches, strict=True))) == [None, None]
    fates = [fate for lane in (0, 1) for fate in bench.fates(lane, before[lane])]
    assert sorted(fates) == ["duplicate", "posted"]
    assert bench.balance("users:1") == -6
    bench.verify()


def test_of_two_bodies_under_one_key_one_wins_and_one_is_a_conflict(bench: PostingBench) -> None:
    one, other = script("same external:b>users:1 5 | same external:b>users:2 7")
    open_accounts(bench, one, other)
    first = bench.stands(0)[0]["next_offset"]
    meeting = Meeting("decided")
    batches = [bench.batch([one], 0), bench.batch([other], 1)]
    posters = [bench.new_poster(fault=meeting) for _ in batches]
    at_once(*(lambda p=p, b=b: p.handle([b]) for p, b in zip(posters, batches, strict=True)))
    assert sorted(bench.fates(0, first) + bench.fates(1)) == ["idempotency_conflict", "posted"]
    assert {bench.balance("users:1"), bench.balance("users:2")} in ({-6, -1}, {-1, -8})
    bench.verify()


def test_an_intent_is_rejected_once_where_two_lanes_refuse_it_at_once(bench: PostingBench) -> None:
    moves = script("same users:1>external:b 5")
    meeting = Meeting("decoded")
    batches = [bench.batch(moves, 0), bench.batch(moves, 1)]
    posters = [bench.new_poster(fault=meeting) for _ in batches]
    at_once(*(lambda p=p, b=b: p.handle([b]) for p, b in zip(posters, batches, strict=True)))
    assert sorted(bench.fates(0) + bench.fates(1)) == ["duplicate", "insufficient_funds"]
    bench.verify()


@pytest.mark.parametrize("repetition", range(3))
def test_two_lanes_that_settle_the_same_intents_in_opposite_order_do_not_hang(
    bench: PostingBench, repetition: int
) -> None:
    """The workers wait for each other's rows: Postgres breaks the deadlock; the loser retries, as after any outage."""
    moves = [transfer(f"k{number}", *pair("external:b", f"users:{number % 7}", 1)) for number in range(600)]
    open_accounts(bench, *moves)
    first = bench.stands(0)[0]["next_offset"]
    meeting = Meeting("decided")
    batches = [bench.batch(moves, 0), bench.batch(moves[::-1], 1)]
    posters = [bench.new_poster(fault=meeting) for _ in batches]
    results = at_once(*(lambda p=p, b=b: bench.persist(p, b) for p, b in zip(posters, batches, strict=True)))
    assert all(isinstance(tries, int) for tries in results), results
    assert Counter(bench.fates(0, first) + bench.fates(1)) == {"posted": 600, "duplicate": 600}
    bench.verify()


# ------------------------------------------------------------------------------------------ two lanes, the same money


def drain(bench: PostingBench, poster: Poster, lane: int, moves: list[Intent], size: int) -> int:
    """Post the moves in small batches; return the number of retries."""
    retries = 0
    start = bench.batch([], lane).expected_offset
    for first in range(0, len(moves), size):
        part = moves[first : first + size]
        made = bench.batch(part, lane, start)
        retries += bench.persist(poster, made) - 1
        start += len(part)
    return retries


def test_no_floor_is_broken_by_lanes_that_draw_at_once(bench: PostingBench) -> None:
    """300 draws in each lane, two a batch, go to one account: exactly as many are posted as its money covers."""
    bench.post_now(script("fund external:b>users:1 500"))
    posted_before = len(bench.fates(0))
    jobs = []
    for lane in (0, 1):
        moves = [transfer(f"{lane}-{number}", *pair("users:1", "external:b", 1)) for number in range(300)]
        jobs.append(lambda lane=lane, moves=moves: drain(bench, bench.new_poster(), lane, moves, 2))
    assert at_once(*jobs) == [0, 0], "who draws on the same account waits; no one is made to start anew"
    fates = Counter(bench.fates(0, posted_before) + bench.fates(1))
    assert fates == {"posted": 500, "insufficient_funds": 100}
    assert bench.balance("users:1") == 0
    bench.verify()


def test_lanes_that_draw_on_crossing_accounts_do_not_hang_and_break_no_floor(bench: PostingBench) -> None:
    """Money goes round eight accounts, in opposite orders in the two lanes."""
    bench.post_now([transfer(f"fund{number}", *pair("external:b", f"users:{number}", 40)) for number in range(8)])
    jobs = []
    for lane, step in ((0, 1), (1, -1)):
        moves = [
            transfer(
                f"{lane}-{number}",
                *pair(f"users:{step * number % 8}", f"users:{(step * number + step) % 8}", 7 + number % 30),
                *pair(f"users:{(step * number + 4) % 8}", f"users:{step * number % 8}", 1 + number % 3),
            )
            for number in range(240)
        ]
        jobs.append(lambda lane=lane, moves=moves: drain(bench, bench.new_poster(), lane, moves, 5))
    retries = at_once(*jobs)
    assert all(isinstance(count, int) for count in retries), retries
    fates = Counter(bench.fates(0) + bench.fates(1))
    assert set(fates) == {"posted", "insufficient_funds"}
    assert fates["posted"] > 50
    assert sum(bench.balance(f"users:{number}") for number in range(8)) == -320
    assert min(-bench.balance(f"users:{number}") for number in range(8)) >= 0
    bench.verify()


def test_one_original_reversed_in_parts_by_two_lanes_is_never_reversed_twice(bench: PostingBench) -> None:
    bench.post_now(script("f external:b>users:1 100"))
    first = len(bench.fates(0))
    jobs = []
    for lane in (0, 1):
        moves = [reversal(f"{lane}-{number}", "f", *pair("users:1", "external:b", 3)) for number in range(40)]
        jobs.append(lambda lane=lane, moves=moves: drain(bench, bench.new_poster(), lane, moves, 2))
    assert all(isinstance(count, int) for count in at_once(*jobs))
    fates = Counter(bench.fates(0, first) + bench.fates(1))
    assert fates == {"posted": 33, "reversal_exceeds_original": 47}
    assert bench.balance("users:1") == -1
    bench.verify()


def test_one_original_reversed_whole_by_two_lanes_at_once(bench: PostingBench) -> None:
    bench.post_now(script("f external:b>users:1 100 | g external:b>users:1 100"))
    first = len(bench.fates(0))
    batches: list[PartitionBatch] = [bench.batch(script(f"r{lane} ~f"), lane) for lane in (0, 1)]
    meeting = Meeting("decoded")
    posters = [bench.new_poster(fault=meeting) for _ in batches]
    at_once(*(lambda p=p, b=b: bench.persist(p, b) for p, b in zip(posters, batches, strict=True)))
    assert sorted(bench.fates(0, first) + bench.fates(1)) == ["posted", "reversal_exceeds_original"]
    assert bench.balance("users:1") == -100
    bench.verify()


def test_lanes_that_open_the_same_accounts_at_once_share_them(bench: PostingBench) -> None:
    names = [f"users:{number}" for number in range(60)]
    forth = [transfer(f"f{name}", *pair("external:b", name, 1)) for name in names]
    back = [transfer(f"b{name}", *pair("external:b", name, 1)) for name in reversed(names)]
    meeting = Meeting("decoded")
    batches = [bench.batch(forth, 0), bench.batch(back, 1)]
    posters = [bench.new_poster(fault=meeting) for _ in batches]
    results = at_once(*(lambda p=p, b=b: bench.persist(p, b) for p, b in zip(posters, batches, strict=True)))
    assert results == [1, 1], "opened in sorted order, they wait for each other but never in a ring"
    assert bench.rows("SELECT count(*) FROM ledger.account") == [{"count": 61}]
    assert {bench.balance(name) for name in names} == {-2}
    bench.verify()


def test_a_transaction_left_open_by_a_frozen_worker_is_ended_by_postgres(bench: PostingBench) -> None:
    """A worker that froze in its transaction may wake up later: its connection is gone, and it has changed nothing."""
    made = bench.batch(script("a external:b>users:1 5"))
    thawed = threading.Event()
    frozen = threading.Event()

    def freeze(point: str) -> None:
        if point == "written" and not frozen.is_set():
            frozen.set()
            assert thawed.wait(MEET_SECONDS_MAX)

    zombie = bench.new_poster(fault=freeze)
    bench.take_over([0], zombie)
    zombie._store._open().execute("SET idle_in_transaction_session_timeout = '300ms'")

    def sleeper() -> None:
        zombie.handle([made])

    def successor() -> None:
        assert frozen.wait(MEET_SECONDS_MAX)
        bench.new_poster().handle([made])
        thawed.set()

    outcomes = at_once(sleeper, successor)
    assert isinstance(outcomes[0], TRANSIENT)
    assert outcomes[1] is None
    assert bench.fates() == ["posted"]
    bench.verify()
