"""Reconciliation's queries: its own books in its own schema, and read-only queries of the ledger.

`shards` in the functions below are (tenant, address, currency, lane); names of intents are (tenant, intent id).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.binary import Bigints, TextFields, Texts, make_numerics, make_text_field
from db.breaks import BreakStore
from db.proving import LaneStore
from db.queries import load

SQL: Final = load("reconciliation")
ROLE: Final = "ledgerline_reconciliation"
BREAKS: Final = BreakStore("reconciliation")

IntentName = tuple[str, str]
ShardKey = tuple[str, str, str, int]
SideKey = tuple[str, int, str]
"""Account, direction, currency."""


TotalKey = tuple[int, str, str, str]
"""Lane, tenant, currency, class of account."""


class LaneRow(NamedTuple):
    """Reconciliation's position in a lane, and its counts."""

    lane: int
    next_offset: int = 0
    next_seq: int = 0
    source_first_offset: int | None = None
    posted: int = 0
    duplicate: int = 0
    idempotency_conflict: int = 0
    rejected: int = 0
    quarantined: int = 0
    expired: int = 0
    booked_time: int = 0


LANES: Final = LaneStore(SQL, LaneRow)


class LedgerLane(NamedTuple):
    """A lane's position as the ledger's tables have it."""

    lane: int
    topic: str
    first_offset: int
    next_offset: int
    next_seq: int
    booked_time: int
    last_booked_time: int = 0
    """The booking time of the last journal row, which `booked_time` must equal; 0 if the lane has no row."""


class Sums(NamedTuple):
    """Debits and credits of a shard, and the last record that touched it."""

    debits_minor: int
    credits_minor: int
    seq: int


class ShardPair(NamedTuple):
    """A shard in reconciliation's books (`own`) and in the ledger (`held`); None on a side that lacks it.

    `next_seq` is reconciliation's position in the lane.
    """

    key: ShardKey
    own: Sums | None
    held: Sums | None
    next_seq: int


class OpenAccount(NamedTuple):
    """An account as the ledger opened it."""

    account_id: int
    account_class: str


class Settled(NamedTuple):
    """The row that settled an intent."""

    lane: int
    seq: int
    outcome: str
    fingerprint: bytes


class FaultyRow(NamedTuple):
    """A journal row that is missing, or that has a wrong number of entries or unbalanced entries."""

    seq: int
    has_row: bool
    leg_count: int
    entry_count: int
    is_balanced: bool


class Reversed(NamedTuple):
    """The amounts that an original moved and that all its reversals took back, by the original's sides; minor units."""

    original: dict[SideKey, int]
    taken: dict[SideKey, int]


def _make_sums(debits: Any, credits: Any, seq: int | None) -> Sums | None:
    return None if seq is None else Sums(int(debits), int(credits), seq)


def _make_pair(row: Sequence[Any]) -> ShardPair:
    return ShardPair((row[0], row[1], row[2], row[3]), _make_sums(*row[4:7]), _make_sums(*row[7:10]), row[10])


class ShardFields(NamedTuple):
    """A shard's key in the form of parameters: texts as `make_text_field` encodes them."""

    tenant: bytes
    address: bytes
    currency: bytes
    lane: int


# Cached, because the same few tenants and currencies repeat.
_short_field: Final = lru_cache(10_000)(make_text_field)


def make_shard_fields(shard: ShardKey) -> ShardFields:
    """Return the key of a shard in the form of parameters."""
    tenant, address, currency, lane = shard
    return ShardFields(_short_field(tenant), make_text_field(address), _short_field(currency), lane)


def _make_shard_columns(shards: Sequence[ShardFields]) -> dict[str, TextFields | Bigints]:
    tenants, addresses, currencies, lanes = zip(*shards, strict=True) if shards else ((), (), (), ())
    return {
        "tenants": TextFields(tenants),
        "addresses": TextFields(addresses),
        "currencies": TextFields(currencies),
        "lanes": Bigints(lanes),
    }


def _make_name_columns(names: Sequence[IntentName]) -> dict[str, list[str]]:
    return {"tenants": [name[0] for name in names], "intent_ids": [name[1] for name in names]}


# ------------------------------------------------------------------------------------------------ own books


def find_gaps(connection: Connection[Any], lanes: Sequence[int]) -> set[tuple[int, int]]:
    """Return the (lane, seq) of records that have not arrived although later ones have."""
    return {(lane, seq) for lane, seq in connection.execute(SQL["gaps"], {"lanes": list(lanes)})}


def change_gaps(
    connection: Connection[Any], opened: Sequence[tuple[int, int]], closed: Sequence[tuple[int, int]]
) -> None:
    """Add the (lane, seq) that the topic skipped as gaps, and remove those that arrived late."""
    for name, places in (("add_gaps", opened), ("remove_gaps", closed)):
        if places:
            connection.execute(SQL[name], {"lanes": [place[0] for place in places], "seqs": [p[1] for p in places]})


def read_own_sums(connection: Connection[Any], shards: Sequence[ShardKey]) -> dict[ShardKey, Sums]:
    """Return reconciliation's own sums of these shards; shards that it does not have are left out."""
    # Not prepared, here and below: a cached plan from when the tables were small scans them whole for each shard.
    columns = _make_shard_columns(list(map(make_shard_fields, shards)))
    rows = connection.execute(SQL["own_sums"], columns, prepare=False)
    return {shards[row[0] - 1]: Sums(int(row[1]), int(row[2]), row[3]) for row in rows}


def add_balances(connection: Connection[Any], shards: Sequence[ShardFields], moved: Sequence[Sequence[int]]) -> None:
    """Add a batch's debits, credits and last seq to each shard. The caller has locked the shards' lanes."""
    debits, credits, seqs = zip(*moved, strict=True)
    values = {
        **_make_shard_columns(shards),
        "debits_minor": make_numerics(debits),
        "credits_minor": make_numerics(credits),
        "seqs": Bigints(seqs),
    }
    connection.execute(SQL["add_balances"], values)


def add_totals(connection: Connection[Any], moved: Mapping[TotalKey, tuple[int, int]]) -> None:
    """Add debits and credits to the sums by (lane, tenant, currency, class of account)."""
    keys = sorted(moved)
    connection.execute(
        SQL["add_totals"],
        {
            "lanes": [key[0] for key in keys],
            "tenants": [key[1] for key in keys],
            "currencies": [key[2] for key in keys],
            "account_classes": [key[3] for key in keys],
            "debits_minor": [moved[key][0] for key in keys],
            "credits_minor": [moved[key][1] for key in keys],
        },
    )


def read_totals(connection: Connection[Any]) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return (tenant, currency, class of account) -> debits and credits in minor units, over all lanes."""
    return {(row[0], row[1], row[2]): (int(row[3]), int(row[4])) for row in connection.execute(SQL["totals"])}


# ------------------------------------------------------------------------------------------------ both sides


def find_unequal_shards(
    connection: Connection[Any], shards: Sequence[ShardFields], account_ids: Sequence[int], own: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Sums | None]]:
    """Yield the index of each shard that differs in the ledger, with the ledger's sums; None if the ledger lacks it.

    `account_ids`: the id of each shard's account. If the account with that id has another name, the ledger lacks the
    shard. `own`: the debits, credits and last seq that each shard should have.
    """
    debits, credits, seqs = zip(*own, strict=True)
    values = {
        **_make_shard_columns(shards),
        "account_ids": Bigints(account_ids),
        "debits_minor": make_numerics(debits),
        "credits_minor": make_numerics(credits),
        "seqs": Bigints(seqs),
    }
    for number, *held in connection.execute(SQL["unequal_shards"], values, prepare=False):
        yield number - 1, _make_sums(*held)


def read_shard_pairs(connection: Connection[Any], shards: Sequence[ShardKey]) -> list[ShardPair]:
    """Return the current sums of the shards on both sides."""
    columns = _make_shard_columns(list(map(make_shard_fields, shards)))
    return [_make_pair(row) for row in connection.execute(SQL["shards"], columns)]


def sweep_ledger_shards(
    connection: Connection[Any], after: tuple[int, str, int], limit: int
) -> tuple[list[ShardPair], tuple[int, str, int] | None]:
    """Return a page of the ledger's shards past `after` (account id, currency, lane), and the last key of the page.

    The key is None after the last page.
    """
    values = {"account_id": after[0], "currency": after[1], "lane": after[2], "limit": limit}
    rows = connection.execute(SQL["sweep_ledger_shards"], values).fetchall()
    end = (rows[-1][0], rows[-1][3], rows[-1][4]) if len(rows) == limit else None
    return [_make_pair(row[1:]) for row in rows], end


def sweep_own_shards(
    connection: Connection[Any], after: ShardKey, limit: int
) -> tuple[list[ShardPair], ShardKey | None]:
    """Return a page of reconciliation's own shards past `after`, and the page's last key; None after the last page."""
    values = {"tenant": after[0], "address": after[1], "currency": after[2], "lane": after[3], "limit": limit}
    pairs = [_make_pair(row) for row in connection.execute(SQL["sweep_own_shards"], values)]
    return pairs, pairs[-1].key if len(pairs) == limit else None


# ------------------------------------------------------------------------------------------------ the ledger


def find_faulty_rows(connection: Connection[Any], lane: int, first_seq: int, next_seq: int) -> list[FaultyRow]:
    """Return the window's journal rows that are missing, have a wrong number of entries, or have unbalanced entries."""
    values = {"lane": lane, "first_seq": first_seq, "next_seq": next_seq}
    return connection.cursor(row_factory=class_row(FaultyRow)).execute(SQL["faulty_rows"], values).fetchall()


def find_accounts(connection: Connection[Any], names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], OpenAccount]:
    """Return (tenant, address) -> account; accounts that are not open are left out."""
    values = {"tenants": Texts([name[0] for name in names]), "addresses": Texts([name[1] for name in names])}
    return {(row[0], row[1]): OpenAccount(row[2], row[3]) for row in connection.execute(SQL["accounts"], values)}


def find_settled(connection: Connection[Any], names: Sequence[IntentName]) -> dict[IntentName, Settled]:
    """Return the rows that settled these intents; intents that are not settled are left out."""
    rows = connection.execute(SQL["settled"], _make_name_columns(names))
    return {(row[0], row[1]): Settled(*row[2:]) for row in rows}


def sum_reversals(connection: Connection[Any], names: Sequence[IntentName]) -> dict[IntentName, Reversed]:
    """Return, for each posted transfer among these originals, what it moved and what all its reversals took back."""
    found: dict[IntentName, Reversed] = {}
    for tenant, intent_id, address, direction, currency, amount in connection.execute(
        SQL["original_sums"], _make_name_columns(names)
    ):
        entry = found.setdefault((tenant, intent_id), Reversed({}, {}))
        entry.original[address, direction, currency] = int(amount)
    for tenant, intent_id, address, direction, currency, amount in connection.execute(
        SQL["reversed_sums"], _make_name_columns(names)
    ):
        if (tenant, intent_id) in found:
            found[tenant, intent_id].taken[address, direction, currency] = int(amount)
    return found


def find_tenant_times(connection: Connection[Any], tenants: Sequence[str]) -> dict[str, int]:
    """Return when each of these tenants was made, in microseconds since 1970; unknown tenants are left out."""
    return {row[0]: row[1] for row in connection.execute(SQL["tenant_times"], {"tenants": list(tenants)})}


def find_row_hashes(connection: Connection[Any], places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """Return the ledger's hashes at these (lane, seq)."""
    values = {"lanes": [place[0] for place in places], "seqs": [place[1] for place in places]}
    return {(row[0], row[1]): bytes(row[2]) for row in connection.execute(SQL["row_hashes"], values)}


def sum_gaps(connection: Connection[Any]) -> dict[ShardKey, tuple[int, int]]:
    """Return the debits and credits of the ledger's rows in the gaps, by shard."""
    rows = connection.execute(SQL["gap_sums"])
    return {(row[0], row[1], row[2], row[3]): (int(row[4]), int(row[5])) for row in rows}


def read_ledger_lanes(connection: Connection[Any]) -> dict[int, LedgerLane]:
    """Return the lanes' positions as the ledger's tables have them."""
    rows = connection.cursor(row_factory=class_row(LedgerLane)).execute(SQL["ledger_lanes"])
    return {row.lane: row for row in rows}


def find_booked_times(connection: Connection[Any], places: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return lane -> the booking time of its row at this (lane, seq), in microseconds since 1970; one seq a lane."""
    values = {"lanes": [place[0] for place in places], "seqs": [place[1] for place in places]}
    return {row[0]: row[1] for row in connection.execute(SQL["booked_times"], values)}


# ------------------------------------------------------------------------------------------------ full recomputation


def read_all_sums(connection: Connection[Any], query: str) -> Iterator[tuple[ShardKey, Sums]]:
    """Yield every shard with its sums. `query`: all_ledger_shards or all_entry_sums."""
    with connection.cursor(name=query) as cursor:
        cursor.itersize = 5000
        for row in cursor.execute(SQL[query]):
            yield (row[0], row[1], row[2], row[3]), Sums(int(row[4]), int(row[5]), row[6])


def read_all_account_classes(connection: Connection[Any]) -> dict[tuple[str, str], str]:
    """Return (tenant, address) -> class of every account."""
    return {(row[0], row[1]): row[2] for row in connection.execute(SQL["all_account_classes"])}
