"""Facts about the frame of the books: canonical JSON, hashes, and how a difference is reported."""

from typing import Any

import rfc8785

from domain.facts import (
    FrameValues,
    compute_fact_hash,
    describe_difference,
    get_fact_key,
    get_fact_values,
    get_lane_chain,
    make_fact_json,
)
from domain.journal import GENESIS_HASH

FACT: dict[str, Any] = {
    "chain": -3, "seq": 7, "part": "account", "change": "added", "tenant": "default", "name": "users:1:wallet",
    "account_class": "liability", "normal_side": "credit", "floor_minor": 0, "currencies": "EUR,USD", "exponent": None,
    "title": 'a "b"\n\x7f\u20ac', "made_time": 5, "author": "ann", "booked_time": 9, "hash": b"", "previous_hash": b"",
}  # fmt: skip


def test_the_json_of_a_fact_is_canonical() -> None:
    members = {name: value for name, value in FACT.items() if not name.endswith("hash")}
    assert make_fact_json(FACT) == rfc8785.dumps({**members, "floor_minor": "0"})


def test_the_hash_covers_each_member_and_what_stands_before() -> None:
    others: dict[str, Any] = {name: 1 if isinstance(value, int) else "x" for name, value in FACT.items()}
    hashes = {compute_fact_hash(GENESIS_HASH, FACT), compute_fact_hash(b"x" * 32, FACT)}
    changed = [name for name in FACT if not name.endswith("hash")]
    hashes |= {compute_fact_hash(GENESIS_HASH, {**FACT, name: others[name]}) for name in changed}
    assert len(hashes) == 2 + len(changed)


def test_chains_are_no_lanes() -> None:
    assert [get_lane_chain(lane) for lane in (0, 1, 32767)] == [-2, -3, -32769]


def test_a_fact_names_a_row_and_what_it_says() -> None:
    assert get_fact_key(FACT) == ("account", "default", "users:1:wallet")
    assert get_fact_values(FACT) == FrameValues("liability", "credit", 0, "EUR,USD", None, FACT["title"], 5)


def test_a_difference_names_both_values() -> None:
    told_values = FrameValues("liability", "credit", 0, None, None, None, 5)
    assert describe_difference(told_values, told_values) is None
    assert describe_difference(told_values, told_values._replace(floor_minor=None)) == (
        "Its floor is none in the ledger and 0 by the facts."
    )
    assert describe_difference(told_values, told_values._replace(account_class="asset", normal_side="debit")) == (
        "Its class is asset in the ledger and liability by the facts; its normal side is debit in the ledger and credit"
        " by the facts."
    )
    assert describe_difference(None, told_values) == "The ledger has the row, and no fact added it."
    assert describe_difference(told_values, None) == "The facts have the row, and the ledger lacks it."
