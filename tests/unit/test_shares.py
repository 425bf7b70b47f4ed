"""Shares of tenants and keys: tables of cases, and requests that wait for their turn."""

import asyncio
from typing import Any, cast

import pytest

from api.metrics import Metrics
from api.postgres_watch import PostgresWatch
from api.problems import Kind, Problem
from api.shares import Holder, Share, Shares, Turns
from db.access import ApiKey
from db.connections import DatabaseBusy, DatabaseError, PoolBusy, StatementTooLong
from runtime.shares import SHARE_BOUNDS, Bounds, ShareBounds


def key(name: str, tenant: str = "one") -> ApiKey:
    return ApiKey(name, tenant, name, b"", frozenset(), None, None)


A, B, C, OTHER, THIRD = key("a"), key("b"), key("c"), key("d", "two"), key("e", "three")


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("100/25/10", Bounds(100, 25, 10)),
        ("1/1/1", Bounds(1, 1, 1)),
        ("10/25/10", None),
        ("100/10/25", None),
        ("100/25/0", None),
        ("100/25", None),
        ("100/25/10/1", None),
        ("100,25,10", None),
        ("a/b/c", None),
        ("-1/-2/-3", None),
        ("", None),
    ],
)
def test_bounds_are_three_numbers_that_do_not_grow(text: str, bounds: Bounds | None) -> None:
    if bounds is None:
        with pytest.raises(ValueError, match=r"such as|at least 1"):
            Bounds.parse(text)
    else:
        assert Bounds.parse(text) == bounds
        assert Bounds.parse(str(bounds)) == bounds


@pytest.mark.parametrize(
    ("held", "asked", "refusal"),
    [
        ([], A, None),
        ([A], A, None),
        ([A, A], A, (429, "key")),
        ([A, A], B, None),
        ([A, A, B], B, (429, "tenant")),
        ([A, A, B], OTHER, None),
        ([A, A, B, OTHER], THIRD, (503, None)),
        ([A, A, B, OTHER], A, (429, "key")),
        ([A, A, B, OTHER], C, (429, "tenant")),
    ],
)
def test_who_is_refused_and_how(held: list[ApiKey], asked: ApiKey, refusal: tuple[int, str | None] | None) -> None:
    """The bounds are four in all, three for a tenant and two for a key."""
    metrics = Metrics()
    share = Share("requests", "requests under way", Bounds(4, 3, 2), metrics)
    for one in held:
        share.take(one)
    if refusal is None:
        share.take(asked)
        share.give_back(asked)
    else:
        with pytest.raises(Problem) as raised:
            share.take(asked)
        status, bound = refusal
        assert (raised.value.kind.status, raised.value.members.get("bound")) == (status, bound)
        assert raised.value.headers["Retry-After"] == "1"
        counted = f'ledgerline_api_share_refusals_total{{bound="{bound or "all"}",share="requests"}} 1.0'
        assert counted in metrics.make_exposition().decode()
    assert share.held[0] == len(held)
    for one in held:
        share.give_back(one)
    assert share.held == (0, 0, 0)


def test_a_request_gives_back_what_it_holds_and_only_that() -> None:
    shares = Shares(ShareBounds(requests=Bounds(2, 2, 1), body_bytes=Bounds(10, 10, 10)), Metrics())
    holder, refused = Holder(), Holder()
    holder.take_body(100)  # not counted: the holder has no key yet, and the API reads no body without one
    holder.begin(A, shares)
    holder.take_body(6)
    holder.take_body(4)
    with pytest.raises(Problem):
        holder.take_body(1)
    with pytest.raises(Problem):
        refused.begin(A, shares)
    refused.give_back()
    assert (shares.requests.held, shares.body_bytes.held) == ((1, 1, 1), (10, 1, 1))
    holder.give_back()
    holder.give_back()
    assert (shares.requests.held, shares.body_bytes.held) == ((0, 0, 0), (0, 0, 0))


async def hold(turns: Turns, asking: ApiKey, holding: list[str], release: asyncio.Event) -> str:
    """Return `held` after the release, or the bound that refused the turn."""
    try:
        async with turns.turn(asking):
            holding.append(asking.key_id)
            await release.wait()
            return "held"
    except Problem as problem:
        return str(problem.members.get("bound", "all"))


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ([A, A], ["held", "key"]),
        ([A, B, C], ["held", "held", "tenant"]),
        ([A, B, OTHER], ["held", "held", "held"]),
        ([A, B, OTHER, THIRD], ["held", "held", "held", "all"]),
        ([A, B, C, C, A, OTHER], ["held", "held", "tenant", "key", "key", "held"]),
    ],
)
def test_who_waits_for_a_turn_in_vain(asked: list[ApiKey], answers: list[str]) -> None:
    """The bounds are three in all, two for a tenant, one for a key. A tenant's queue does not block other tenants."""

    async def run() -> list[str]:
        turns = Turns("reads", "connections", Bounds(3, 2, 1), Metrics(), 0.05)
        release = asyncio.Event()
        holding: list[str] = []
        tasks = [asyncio.create_task(hold(turns, asking, holding, release)) for asking in asked]
        refused = len(answers) - answers.count("held")
        while sum(task.done() for task in tasks) < refused:
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        release.set()
        found = await asyncio.gather(*tasks)
        assert all(not places._found for _, places in turns._gates)
        return found

    assert asyncio.run(run()) == answers


def test_only_requests_that_wait_for_a_connection_are_counted_as_waiting() -> None:
    """A request that waits behind its own key or tenant waits for no connection."""

    async def run() -> None:
        metrics = Metrics()
        turns = Turns("reads", "connections", Bounds(3, 2, 1), metrics, 5)
        release = asyncio.Event()
        holding: list[str] = []
        counts = []
        tasks = []
        for asking in (A, A, B, C, OTHER, THIRD):
            tasks.append(asyncio.create_task(hold(turns, asking, holding, release)))
            await asyncio.wait(tasks, timeout=0)
            counts.append(metrics.queued_reads)
        assert counts == [0, 0, 0, 0, 0, 1]
        release.set()
        assert await asyncio.gather(*tasks) == ["held"] * 6
        assert metrics.queued_reads == 0

    asyncio.run(run())


def test_a_turn_comes_when_another_ends_and_none_is_lost_when_a_request_is_cancelled() -> None:
    async def run() -> None:
        turns = Turns("reads", "connections", Bounds(1, 1, 1), Metrics(), 5)
        release, never = asyncio.Event(), asyncio.Event()
        holding: list[str] = []
        first = asyncio.create_task(hold(turns, A, holding, release))
        leaver = asyncio.create_task(hold(turns, A, holding, never))
        last = asyncio.create_task(hold(turns, B, holding, release))
        await asyncio.wait([first], timeout=0)
        leaver.cancel()
        release.set()
        assert await asyncio.gather(first, last) == ["held", "held"]
        assert holding == ["a", "b"]
        assert all(not places._found for _, places in turns._gates)

    asyncio.run(run())


def test_no_tenant_has_all_of_anything() -> None:
    """By default at least a third of each bound remains for others while one tenant uses its whole share."""
    bounds: Any = [value for value in SHARE_BOUNDS if isinstance(value, Bounds)]
    assert [(one.in_all - one.by_tenant) * 3 >= one.in_all for one in bounds] == [True] * 5
    assert Kind.SHARE_USED_UP.status == 429


@pytest.mark.parametrize(
    ("raised", "is_there", "told", "is_away"),
    [
        (PoolBusy("full"), True, PoolBusy, False),
        (PoolBusy("full"), False, DatabaseError, True),
        (StatementTooLong("slow"), False, StatementTooLong, False),
        (DatabaseBusy("no memory"), False, DatabaseBusy, False),
        (DatabaseError("refused"), True, DatabaseError, True),
    ],
)
def test_away_follows_from_what_means_away(
    monkeypatch: pytest.MonkeyPatch, raised: DatabaseError, is_there: bool, told: type[DatabaseError], is_away: bool
) -> None:
    """A busy pool counts as an outage only if Postgres also refuses a new connection outside the pool."""

    async def look(_watch: PostgresWatch) -> bool:
        return is_there

    async def question() -> None:
        raise raised

    async def run() -> None:
        watch = PostgresWatch(cast("Any", None), "", "", lambda _cause: None)
        with pytest.raises(DatabaseError) as found:
            await watch.ask(question)
        assert type(found.value) is told
        assert (watch.away_seconds is not None) == is_away
        watch.close()

    monkeypatch.setattr(PostgresWatch, "_take_a_look", look)
    asyncio.run(run())
