"""Reconciliation's own books: what each shard must hold, in its tables, and in memory for those that moved of late."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any, Final

from db import reconciliation as db
from streams.proof.reconciliation import checks

SHARDS_CACHED_MAX: Final = 100_000
_NOTHING: Final = (0, 0, -1)
UNKNOWN_CLASS: Final = "unknown"


@dataclass(slots=True)
class _Shard:
    key: db.ShardKey
    fields: db.ShardFields
    debits_minor: int
    credits_minor: int
    seq: int
    account_id: int | None
    """None while the ledger has not opened the account."""
    total: list[int]
    """What the batch moved on all shards of the same lane, tenant, currency and class of account: debits, credits."""
    moved: Sequence[int]
    """What the batch moved on it: debits, credits, last seq."""


def _address_of(shard: _Shard) -> str:
    return shard.key[1]


class OwnBooks:
    """Adds batches up and holds the touched shards against the ledger's.

    The tables are the truth, and only the worker that holds a lane writes its shards: so what is written need not be
    read back, as long as `forget` is called wherever a batch did not come through or a lane was taken over.
    """

    def __init__(self) -> None:
        self._shards: dict[db.ShardKey, _Shard] = {}
        self._totals: dict[db.TotalKey, list[int]] = {}

    def forget(self) -> None:
        """Ask the tables again from here on."""
        self._shards.clear()
        self._totals.clear()

    def add(
        self, connection: Any, moved: Mapping[db.ShardKey, Sequence[int]], next_seqs: Mapping[int, int]
    ) -> list[db.ShardPair]:
        """Add what a batch moved; returns both sides, from the tables, of the shards that look wrong.

        `moved`: debits, credits (minor units) and the last seq of each shard. `next_seqs`: where the lanes stand after
        the batch, which the transaction has stored.
        """
        if not moved:
            return []
        shards = self._met(connection, moved)
        changes = []
        for shard in shards:
            changes.append(shard.moved)
            debits, credits, seq = shard.moved
            shard.moved = _NOTHING
            shard.debits_minor += debits
            shard.credits_minor += credits
            shard.seq = seq if seq > shard.seq else shard.seq
            total = shard.total
            total[0] += debits
            total[1] += credits
        db.add_balances(connection, [shard.fields for shard in shards], changes)
        db.add_totals(connection, {key: (sums[0], sums[1]) for key, sums in self._totals.items() if any(sums)})
        for sums in self._totals.values():
            sums[:] = 0, 0
        looks_wrong = self._unequal(connection, shards, next_seqs)
        return db.shard_pairs(connection, looks_wrong) if looks_wrong else []

    def _met(self, connection: Any, moved: Mapping[db.ShardKey, Sequence[int]]) -> list[_Shard]:
        """The shards in order of address, as Postgres has them; those that are new to us from the tables."""
        known = self._shards
        if len(known) + len(moved) > SHARDS_CACHED_MAX:
            self.forget()
        shards, new = [], []
        for key, sums in moved.items():
            shard = known.get(key)
            if shard is None:
                new.append(key)
            else:
                shard.moved = sums
                shards.append(shard)
        if new:
            shards += self._read(connection, new, moved)
        shards.sort(key=_address_of)  # neighbours in the index: a quarter of Postgres' time
        return shards

    def _read(
        self, connection: Any, keys: Sequence[db.ShardKey], moved: Mapping[db.ShardKey, Sequence[int]]
    ) -> Iterator[_Shard]:
        """Shards from the tables, kept from here on."""
        sums = db.own_sums(connection, keys)
        accounts = db.accounts(connection, sorted({key[:2] for key in keys}))
        for key in keys:
            account_id, account_class = accounts.get(key[:2], (None, UNKNOWN_CLASS))
            total = self._totals.setdefault((key[3], key[0], key[2], account_class), [0, 0])
            # One copy of what thousands of shards have in common, as they are kept for long.
            kept = (intern(key[0]), key[1], intern(key[2]), key[3])
            fields = db.shard_fields(key)
            shard = _Shard(kept, fields, *sums.get(key, (0, 0, -1)), account_id, total, moved[key])
            if account_id is not None:  # else the account may be opened by the next time
                self._shards[kept] = shard
            yield shard

    @staticmethod
    def _unequal(connection: Any, shards: Sequence[_Shard], next_seqs: Mapping[int, int]) -> list[db.ShardKey]:
        """The shards that the ledger should hold as we do, and does not."""
        looks_wrong: list[db.ShardKey] = []
        plain, account_ids, own = [], [], []
        for shard in shards:
            account_id, debits, credits = shard.account_id, shard.debits_minor, shard.credits_minor
            if account_id is None:
                looks_wrong.append(shard.key)  # the ledger has not opened the account
            else:
                plain.append(shard)
                account_ids.append(account_id)
                own.append((debits, credits, shard.seq))
        if plain:
            fields = [shard.fields for shard in plain]
            for index, held in db.unequal_shards(connection, fields, account_ids, own):
                key = plain[index].key
                if checks.shard(db.ShardPair(key, db.Sums(*own[index]), held, next_seqs[key[3]])) is not None:
                    looks_wrong.append(key)
        return looks_wrong
