"""Facts about the frame of the books (tenants, units, chart lines and opened accounts), in hash chains.

The hash of a fact is SHA-256 over the previous hash in its chain and the fact's canonical JSON (RFC 8785). The previous
hash of the first fact is 32 zero bytes. See docs/decisions/0021-frame-facts.md.
"""

from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from domain.intents import DIRECTIONS

OPERATORS_CHAIN: Final = -1
"""The chain of the facts about what operators add, change and remove."""


class Part(StrEnum):
    """The kind of row that a fact is about."""

    TENANT = "tenant"
    UNIT = "unit"
    CHART = "chart"
    ACCOUNT = "account"


class Change(StrEnum):
    """What happened to the row."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class FrameKey(NamedTuple):
    """The key of a row of the frame."""

    part: str
    tenant: str
    name: str
    """The unit's code, the line's pattern or the account's address; '' for a tenant."""


class FrameValues(NamedTuple):
    """The values of a row of the frame; None if its part has no such member."""

    account_class: str | None
    normal_side: str | None
    """debit or credit."""
    floor_minor: int | None
    currencies: str | None
    """The codes that a line allows, comma separated; None: all."""
    exponent: int | None
    title: str | None
    """The name of a unit."""
    made_time: int | None
    """When the tenant was made or the account opened, in microseconds since 1970."""


def get_lane_chain(lane: int) -> int:
    """Return the chain of the accounts that a lane opens. Chains are below 0, so no chain has the number of a lane."""
    return -2 - lane


def get_fact_key(fact: Mapping[str, Any]) -> FrameKey:
    """Return the key of the row that a fact is about. `fact`: a FrameFact of the topic ledger.frame."""
    return FrameKey(fact["part"], fact["tenant"], fact["name"])


def get_normal_direction(fact: Mapping[str, Any]) -> int | None:
    """Return 1 or -1 for the fact's normal side; None if its part has none."""
    side = fact["normal_side"]
    return None if side is None else DIRECTIONS[side]


def get_fact_values(fact: Mapping[str, Any]) -> FrameValues:
    """Return the values of the row after this fact."""
    return FrameValues(
        fact["account_class"],
        fact["normal_side"],
        fact["floor_minor"],
        fact["currencies"],
        fact["exponent"],
        fact["title"],
        fact["made_time"],
    )


def make_fact_json(fact: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON that is hashed: all but the two hashes; the floor is a string, like amounts."""
    floor_minor = fact["floor_minor"]
    return orjson.dumps(
        {
            "account_class": fact["account_class"],
            "author": fact["author"],
            "booked_time": fact["booked_time"],
            "chain": fact["chain"],
            "change": fact["change"],
            "currencies": fact["currencies"],
            "exponent": fact["exponent"],
            "floor_minor": None if floor_minor is None else str(floor_minor),
            "made_time": fact["made_time"],
            "name": fact["name"],
            "normal_side": fact["normal_side"],
            "part": fact["part"],
            "seq": fact["seq"],
            "tenant": fact["tenant"],
            "title": fact["title"],
        }
    )


def compute_fact_hash(previous_hash: bytes, fact: Mapping[str, Any]) -> bytes:
    """Return the hash of a fact; `previous_hash` is the hash before it in its chain."""
    return sha256(previous_hash + make_fact_json(fact)).digest()


_WORDS: Final = {
    "account_class": "class",
    "normal_side": "normal side",
    "floor_minor": "floor",
    "currencies": "currencies",
    "exponent": "exponent",
    "title": "name",
    "made_time": "time",
}


def describe_difference(told: FrameValues | None, held: FrameValues | None) -> str | None:
    """Return one sentence about how a row of the ledger differs from what its facts say; None if it does not.

    `told`: the row by its last fact; None if no fact added it or if a fact removed it. `held`: the row in the ledger's
    table; None if it is missing.
    """
    if told == held:
        return None
    if told is None:
        return "The ledger has the row, and no fact added it."
    if held is None:
        return "The facts have the row, and the ledger lacks it."
    members = [
        f"its {_WORDS[name]} is {_make_shown(now)} in the ledger and {_make_shown(then)} by the facts"
        for name, now, then in zip(FrameValues._fields, held, told, strict=True)
        if now != then
    ]
    sentence = "; ".join(members)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _make_shown(value: str | int | None) -> str:
    return "none" if value is None else str(value)
