"""Decide whether an agent that does nothing really has nothing to do: its watchdog follows this rule.

A consumer can go deaf in many ways: its fetches stop, it falls out of its group, it never seeks after a rebalance. Each
way looks like an idle agent from inside. So an agent counts as idle only if Kafka itself says so, asked by a client
apart from the engine's. If that is not known, the agent does not count as idle, and the watchdog's term runs.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from streams.batches import Place

LOOK_AGE_SECONDS_MAX = 15.0
"""An older look says nothing: the thread that looks may be stuck itself. A look waits up to ten seconds for Kafka."""


class Membership(Enum):
    """What the broker says of a member that the engine gave no partitions."""

    SPARE = "spare"
    """The group is stable, knows the member, and has no partitions for it."""
    LOST = "lost"
    """The group does not know the member, or has partitions for it that the engine did not take."""
    JOINING = "joining"
    """The group is between two assignments."""


class Look(NamedTuple):
    """What Kafka said last. Times are of time.monotonic()."""

    looked_at: float
    ends: Mapping[Place, int]
    """The next offset of each partition; those that Kafka did not tell are missing."""
    is_away: bool
    """Whether a client made for this one look had no answer."""
    membership: Membership | None
    """Asked only of a member without partitions; None if it was not asked or not answered."""


class Standing(NamedTuple):
    """The partitions and offsets of the agent, as its engine and its store say."""

    assigned: frozenset[Place]
    """The partitions that the engine says it has."""
    expected: Mapping[Place, int]
    """The store's next offset of each partition that was taken over."""
    fetched_ends: Mapping[Place, int]
    """The ends that the engine saw with its last fetches."""
    is_busy: bool


def find_work(standing: Standing, look: Look | None, now: float) -> str | None:
    """Say what keeps the agent from being idle; None if it is idle.

    An agent is idle too while Kafka is away, whatever waits there: a new process could fetch nothing either.

    `now` is of time.monotonic().
    """
    if standing.is_busy:
        return "a batch is under way"
    if look is None or now - look.looked_at > LOOK_AGE_SECONDS_MAX:
        return "nobody has looked at the ends of the partitions lately"
    if look.is_away:
        return None
    for place in sorted(standing.assigned):
        end = max(look.ends.get(place, 0), standing.fetched_ends.get(place, 0))
        if place not in standing.expected:
            return f"partition {place} is assigned and not taken over"
        if end > standing.expected[place]:
            return f"partition {place} has records that were not fetched"
    unknown = ", ".join(str(place) for place in sorted(standing.assigned - look.ends.keys()))
    if unknown:
        return f"Kafka did not tell the ends of the partitions {unknown}"
    if not standing.assigned and look.membership is not Membership.SPARE:
        return f"there are no partitions, and the group's word is {look.membership and look.membership.value}"
    return None


class Member(NamedTuple):
    """One member of a consumer group, as the broker describes it."""

    member_id: str
    partitions: frozenset[Place]


def judge_membership(member_id: str, group_is_stable: bool, members: list[Member]) -> Membership:
    """Judge a member that has no partitions by what the broker says of its group."""
    if not group_is_stable:
        return Membership.JOINING
    mine = [member for member in members if member.member_id == member_id]
    return Membership.SPARE if mine and not mine[0].partitions else Membership.LOST
