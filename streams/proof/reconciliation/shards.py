"""Reconciliation's own shards: what each must hold. They are in its tables, with a cache of recent ones."""

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
    """What the batch moved on this shard: debits, credits, last seq."""


def _get_address(shard: _Shard) -> str:
    return shard.key[1]


class OwnShards:
    """The sums of all batches by shard; `add` compares the touched shards with the ledger's.

    The tables are the truth, and only the worker that holds a lane writes the lane's shards. So the cache need not be
    read again, as long as `forget` is called when a batch fails or a lane is taken over.
    """

    def __init__(self) -> None:
        self._shards: dict[db.ShardKey, _Shard] = {}
        self._totals: dict[db.TotalKey, list[int]] = {}

    def forget(self) -> None:
        """Empty the cache, so that the tables are read again."""
        self._shards.clear()
        self._totals.clear()

    def add(
        self, connection: Any, moved: Mapping[db.ShardKey, Sequence[int]], next_seqs: Mapping[int, int]
    ) -> list[db.ShardPair]:
        """Add what a batch moved; return the shards that look wrong, with both sides as the tables have them.

        `moved`: debits, credits (minor units) and the last seq of each shard. `next_seqs`: lane -> next seq after the
        batch, as the transaction has stored it.
        """
        if not moved:
            return []
        shards = self._find_moved(connection, moved)
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
        looks_wrong = self._find_unequal(connection, shards, next_seqs)
        return db.read_shard_pairs(connection, looks_wrong) if looks_wrong else []

    def _find_moved(self, connection: Any, moved: Mapping[db.ShardKey, Sequence[int]]) -> list[_Shard]:
        """Return the moved shards in order of address, as in the index of Postgres; read those that are not cached."""
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
        shards.sort(key=_get_address)  # neighbours in the index: this saves a quarter of Postgres' time
        return shards

    def _read(
        self, connection: Any, keys: Sequence[db.ShardKey], moved: Mapping[db.ShardKey, Sequence[int]]
    ) -> Iterator[_Shard]:
        """Yield shards from the tables, and cache those whose account is open."""
        sums = db.read_own_sums(connection, keys)
        accounts = db.find_accounts(connection, sorted({key[:2] for key in keys}))
        for key in keys:
            account_id, account_class = accounts.get(key[:2], (None, UNKNOWN_CLASS))
            total = self._totals.setdefault((key[3], key[0], key[2], account_class), [0, 0])
            # Shards stay cached for long, and thousands share a tenant and a currency: keep one copy of each text.
            kept = (intern(key[0]), key[1], intern(key[2]), key[3])
            fields = db.make_shard_fields(key)
            shard = _Shard(kept, fields, *sums.get(key, (0, 0, -1)), account_id, total, moved[key])
            if account_id is not None:  # else the ledger may open the account before the next batch
                self._shards[kept] = shard
            yield shard

    @staticmethod
    def _find_unequal(connection: Any, shards: Sequence[_Shard], next_seqs: Mapping[int, int]) -> list[db.ShardKey]:
        """Return the shards of which the ledger should have the same sums as these, and has not."""
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
            for index, held in db.find_unequal_shards(connection, fields, account_ids, own):
                key = plain[index].key
                if checks.check_shard(db.ShardPair(key, db.Sums(*own[index]), held, next_seqs[key[3]])) is not None:
                    looks_wrong.append(key)
        return looks_wrong
