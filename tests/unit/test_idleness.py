"""When an agent that does nothing counts as idle: each row changes one fact and names the work found, if any."""

import re

import pytest

from streams.batches import Place
from streams.idleness import (
    LOOK_AGE_SECONDS_MAX,
    Look,
    Member,
    Membership,
    Standing,
    find_work,
    judge_membership,
)

NOW = 1000.0


def place(number: int) -> Place:
    """Return partition 0 to 9 of topic `a`, or 10 to 19 as partitions 0 to 9 of topic `b`."""
    return Place("ab"[number // 10], number % 10)


def at(offsets: dict[int, int]) -> dict[Place, int]:
    return {place(number): offset for number, offset in offsets.items()}


def standing(assigned: set[int], expected: dict[int, int], *, fetched: dict[int, int] | None = None) -> Standing:
    return Standing(frozenset(map(place, assigned)), at(expected), at(fetched or {}), is_busy=False)


def look(
    ends: dict[int, int], *, age: float = 1.0, is_away: bool = False, membership: Membership | None = None
) -> Look:
    return Look(NOW - age, at(ends), is_away, membership)


ALL_DONE = standing({0, 1}, {0: 5, 1: 9})
SPARE = standing(set(), {})


@pytest.mark.parametrize(
    ("stands", "looked", "work"),
    [
        (ALL_DONE, look({0: 5, 1: 9}), None),
        (ALL_DONE._replace(is_busy=True), look({0: 5, 1: 9}), "a batch is under way"),
        (ALL_DONE, look({0: 5, 1: 10}), "partition a/1 has records that were not fetched"),
        # The same number of two topics is two partitions.
        (standing({1, 11}, {1: 9, 11: 2}), look({1: 9, 11: 2}), None),
        (standing({1, 11}, {1: 9, 11: 2}), look({1: 9, 11: 3}), "partition b/1 has records that were not fetched"),
        (standing({1, 11}, {1: 9}), look({1: 9, 11: 0}), "partition b/1 is assigned and not taken over"),
        (standing({1, 11}, {1: 9, 11: 2}), look({11: 2}), "Kafka did not tell the ends of the partitions a/1$"),
        # The look at Kafka is a second old, and the engine's fetch is newer.
        (standing({0, 1}, {0: 5, 1: 9}, fetched={0: 6}), look({0: 5, 1: 9}), "partition a/0 has records"),
        # A rebalance assigned a partition, and the engine has not asked the store for its position.
        (standing({0, 1}, {0: 5}), look({0: 5}), "partition a/1 is assigned and not taken over"),
        (standing({0, 1}, {0: 5}), look({0: 5}, is_away=True), None),
        # No look was made, or the thread that looks is stuck.
        (ALL_DONE, None, "nobody has looked"),
        (ALL_DONE, look({0: 5, 1: 9}, age=LOOK_AGE_SECONDS_MAX + 1), "nobody has looked"),
        # A client without an answer does not prove that Kafka is away, but a new client without an answer does.
        (ALL_DONE, look({0: 5}), "Kafka did not tell the ends of the partitions a/1$"),
        (ALL_DONE, look({}, is_away=True), None),
        # Waiting records cannot be fetched while Kafka is away. A batch under way is judged by its own progress.
        (ALL_DONE, look({1: 10}, is_away=True), None),
        (ALL_DONE._replace(is_busy=True), look({}, is_away=True), "a batch is under way"),
        # If the agent has no partition, only the broker's word that the member is spare counts.
        (SPARE, look({}, membership=Membership.SPARE), None),
        (SPARE, look({}, membership=Membership.LOST), "the group's word is lost"),
        (SPARE, look({}, membership=Membership.JOINING), "the group's word is joining"),
        (SPARE, look({}), "the group's word is None"),
        (SPARE, look({}, is_away=True), None),
    ],
)
def test_an_agent_is_idle_only_if_kafka_says_so(stands: Standing, looked: Look | None, work: str | None) -> None:
    found = find_work(stands, looked, NOW)
    if work is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(work, found)


@pytest.mark.parametrize(
    ("member_id", "is_stable", "members", "membership"),
    [
        ("me", True, [Member("me", frozenset()), Member("other", frozenset({place(0), place(1)}))], Membership.SPARE),
        ("me", True, [Member("other", frozenset({place(0), place(1)}))], Membership.LOST),
        ("me", True, [Member("me", frozenset({place(10)})), Member("other", frozenset({place(1)}))], Membership.LOST),
        ("", True, [Member("other", frozenset({place(0), place(1)}))], Membership.LOST),
        ("me", False, [Member("me", frozenset())], Membership.JOINING),
        ("me", False, [], Membership.JOINING),
    ],
)
def test_the_group_says_what_a_member_without_partitions_is(
    member_id: str, is_stable: bool, members: list[Member], membership: Membership
) -> None:
    assert judge_membership(member_id, is_stable, members) is membership
