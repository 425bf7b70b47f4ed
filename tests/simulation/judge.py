"""Check what must hold at each commit of Postgres and of Kafka, and at the end, without using the poster's code.

The judge sees only committed data: rows, entries, balances and lanes as the database reports them, and the topic of the
journal as a read_committed reader gets it.
"""

import hashlib
from collections import Counter
from typing import Any, Final

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.intents import DIRECTION_NAMES, Intent
from domain.journal import GENESIS_HASH, JournalRow
from domain.outcomes import Outcome
from domain.signed_heads import SignedHead, make_head_bytes
from runtime.key_files import SigningKey
from tests.posting_model import script
from tests.simulation.broker import HOLE, Broker, Log
from tests.simulation.database import SETTLING, Database, Rows
from tests.simulation.scheduler import Violation

_PRIVATE: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY: Final = SigningKey(_PRIVATE, _PRIVATE.public_key().public_bytes_raw(), "")
"""The same key in each run. Ed25519 is deterministic: the same key and the same bytes give the same signature."""


def asked(text: str) -> Intent | None:
    """Return the intent that a lane's text stands for, or None if it stands for none."""
    return None if text == HOLE or text.startswith("?") else script(text)[0]


def require(holds: object, invariant: str, detail: str) -> None:
    """Raise Violation if the condition does not hold."""
    if not holds:
        raise Violation(invariant, detail)


class Judge:
    """Keeps its own books from the commits, and compares the ledger and the topic with them."""

    def __init__(self, database: Database, broker: Broker) -> None:
        self._database = database
        self._broker = broker
        self._next_seq: Counter[int] = Counter()
        self._heads: dict[int, bytes] = {}
        self._offsets: dict[tuple[int, int], int] = {}
        self._settled: dict[Any, JournalRow] = {}
        self._reversed: dict[Any, Counter[tuple[str, int, str]]] = {}
        self._shards: dict[tuple[int, str, int], list[int]] = {}
        self._read: Counter[int] = Counter()
        self._signed_up_to: Counter[int] = Counter()
        self._scanned: Counter[int] = Counter()
        self._facts_read: Counter[int] = Counter()
        self._facts_scanned = 0

    # ------------------------------------------------------------------------------------------ Postgres

    def committed(self, written: dict[str, Rows]) -> None:
        """Check what a transaction of Postgres wrote, just after its commit."""
        addresses = {account.account_id: name[1] for name, account in self._database.tables["account"].items()}
        for place in sorted(written["journal"]):
            self._row(written["journal"][place], written["entry"].get(place, []), addresses)
        for lane in written["lane"].values():
            reached = (self._next_seq[lane.lane], self._heads.get(lane.lane, GENESIS_HASH))
            require((lane.next_seq, lane.head) == reached, "gapless sequence", f"lane {lane.lane} moved past its rows")
            first = self._database.tables["first_offset"][lane.lane]
            offsets = [offset for number, offset in self._offsets if number == lane.lane]
            require(
                sorted(offsets) == list(range(first, lane.next_offset)),
                "one row for each offset",
                f"lane {lane.lane} stands at {lane.next_offset} with rows for the offsets {sorted(offsets)}",
            )
            self._signature(lane.lane, lane.next_seq, written["signed_head"].get((lane.lane, lane.next_seq)))
        for shard in written["balance"]:
            require(
                self._database.tables["balance"][shard] == tuple(self._shards[shard]),
                "balances are the sums of entries",
                f"shard {shard} is {self._database.tables['balance'][shard]}, not {self._shards[shard]}",
            )
        self._floors({account_id for account_id, _, _ in written["balance"]})

    def _signature(self, lane: int, next_seq: int, signed: SignedHead | None) -> None:
        """Check that each head that moved is signed, over exactly the rows that moved it."""
        first = self._signed_up_to[lane]
        if next_seq == first:
            return  # a lane that was only created
        rows = self._database.tables["journal"]
        hashes = b"".join(rows[lane, seq].hash for seq in range(first, next_seq))
        right = SignedHead(lane, first, next_seq, KEY.private.sign(make_head_bytes(lane, first, hashes)))
        require(signed == right, "each head is signed", f"lane {lane} from seq {first} to {next_seq}: {signed}")
        self._signed_up_to[lane] = next_seq

    def _row(self, row: JournalRow, entries: list[Any], addresses: dict[int, str]) -> None:
        place = f"lane {row.lane} seq {row.seq}"
        require(row.seq == self._next_seq[row.lane], "gapless sequence", f"{place} follows {self._next_seq[row.lane]}")
        head = self._heads.get(row.lane, GENESIS_HASH)
        require(row.previous_hash == head and row.hash == hash_of(row), "hash chain", f"{place} is not chained")
        self._next_seq[row.lane], self._heads[row.lane] = row.seq + 1, row.hash
        before = self._offsets.get((row.lane, row.source_offset))
        again = f"offset {row.source_offset} of lane {row.lane} has seq {before} and seq {row.seq}"
        require(before is None, "one row for each offset", again)
        self._offsets[row.lane, row.source_offset] = row.seq
        for account_id, direction, amount_minor, currency in entries:
            require(account_id in addresses, "entries name open accounts", f"{place} names account {account_id}")
            shard = self._shards.setdefault((account_id, currency, row.lane), [0, 0, 0])
            shard[direction < 0] += amount_minor
            shard[2] = row.seq
        legs = [(addresses[account_id], *rest) for account_id, *rest in entries]
        require(legs == [tuple(leg) for leg in row.legs], "faithfulness", f"{place} has other entries than legs")
        sums: Counter[str] = Counter()
        for _, direction, amount_minor, currency in entries:
            sums[currency] += direction * amount_minor
        require(not any(sums.values()), "debits equal credits", f"{place}: {dict(sums)}")
        self._fate(row, place)

    def _fate(self, row: JournalRow, place: str) -> None:
        intent = asked(self._broker.lanes[row.lane][row.source_offset])
        if intent is None:
            require(row.outcome is Outcome.QUARANTINED, "faithfulness", f"{place} holds no intent")
            return
        require(row.intent_id == intent.intent_id, "faithfulness", f"{place} is of another intent")
        first = self._settled.get((row.tenant, row.intent_id))
        if row.outcome not in SETTLING:
            require(first is not None, "a duplicate follows its settlement", f"{place} follows none")
            is_same = first is not None and first.fingerprint == row.fingerprint
            require(is_same == (row.outcome is Outcome.DUPLICATE), "a duplicate has the same body", place)
            return
        twice = f"{row.idempotency_key} is settled twice: {first and (first.lane, first.seq)} and {place}"
        require(first is None, "an intent is settled once", twice)
        self._settled[row.tenant, row.intent_id] = row
        if row.outcome is Outcome.POSTED and intent.reverses is not None:
            self._reversal(row, place)
        if row.outcome is Outcome.POSTED and intent.legs:
            require(row.legs == intent.legs, "faithfulness", f"{place} moved something else than was asked")

    def _reversal(self, row: JournalRow, place: str) -> None:
        original = self._settled.get((row.tenant, row.reverses))
        is_there = original is not None and original.outcome is Outcome.POSTED
        require(is_there, "a reversal follows its original", f"{place} reverses what is not posted")
        room = self._reversed.setdefault((row.tenant, row.reverses), Counter())
        if not room and original is not None:
            for account, direction, amount_minor, currency in original.legs:
                room[account, direction, currency] += amount_minor
        for account, direction, amount_minor, currency in row.legs:
            room[account, -direction, currency] -= amount_minor
        too_much = f"{place} takes back more than its original moved: {dict(room)} is left"
        require(min(room.values()) >= 0, "no more is reversed than was moved", too_much)

    def _floors(self, touched: set[int]) -> None:
        sums: Counter[tuple[int, str]] = Counter()
        for (account_id, currency, _), (debits, credits, _) in self._database.tables["balance"].items():
            sums[account_id, currency] += debits - credits
        for (_, address), account in self._database.tables["account"].items():
            if account.constraint is None or account.account_id not in touched:
                continue
            for (account_id, currency), balance in sums.items():
                if account_id == account.account_id:
                    held = balance * account.constraint.normal_direction
                    require(held >= account.constraint.floor_minor, "floors", f"{address} holds {held} {currency}")

    # ------------------------------------------------------------------------------------------ Kafka

    def told(self, log: Log) -> None:
        """Check the topic when a partition learns how a transaction ended: it must hold the next rows of the table."""
        topic, lane = log.partition
        end = log.stable_end()
        if topic == "ledger.frame":
            self._facts_told(log, end)
        if topic != "ledger.journal":
            return
        for slot in log.slots[self._scanned[lane] : end]:
            if slot.transaction.is_committed:
                seq = slot.value["seq"]
                follows = f"the topic has lane {lane} seq {seq} where {self._read[lane]} is next"
                require(seq == self._read[lane], "the topic is the table", follows)
                row = self._database.tables["journal"].get((lane, seq))
                require(row is not None and row.hash == slot.value["hash"], "the topic is the table", "another row")
                legs = [tuple(leg.values()) for leg in slot.value["legs"]]
                wanted = [(leg[0], DIRECTION_NAMES[leg[1]], *leg[2:]) for leg in row.legs] if row else []
                require(legs == wanted, "the topic is the table", f"lane {lane} seq {seq} has other legs")
                self._read[lane] += 1
                signed = self._database.tables["signed_head"].get((lane, seq + 1))
                told = (lane, slot.value["signed_from"], seq + 1, slot.value["signature"])
                is_same = told == (signed or (lane, None, seq + 1, None))
                require(is_same, "the topic is the table", f"lane {lane} seq {seq} has another signature")
        self._scanned[lane] = end

    def _facts_told(self, log: Log, end: int) -> None:
        """Check that each fact is published once, in the order of its chain."""
        for slot in log.slots[self._facts_scanned : end]:
            if slot.transaction.is_committed:
                chain, seq = slot.value["chain"], slot.value["seq"]
                follows = f"ledger.frame has chain {chain} seq {seq} where {self._facts_read[chain]} is next"
                require(seq == self._facts_read[chain], "the topic is the table", follows)
                told = self._database.tables["fact"].get((chain, seq))
                require(told == slot.value, "the topic is the table", "another fact")
                self._facts_read[chain] += 1
        self._facts_scanned = end

    # ------------------------------------------------------------------------------------------ the end

    def is_settled(self) -> bool:
        """Return whether each offset is posted, and each row and each fact is readable on its topic."""
        lanes = self._broker.lanes
        owed = {chain for chain, (seq, _) in self._database.tables["chain"].items() if seq != self._facts_read[chain]}
        return not owed and all(
            self._next_seq[lane] == len(lanes[lane]) == self._read[lane] for lane in range(len(lanes))
        )

    def fates(self) -> list[str]:
        """Return the outcome of each offset, for statistics."""
        return [row.reason or row.outcome.value for row in self._database.tables["journal"].values()]


def hash_of(row: JournalRow) -> bytes:
    """Return the hash of a row, computed from the documented members only."""
    members = {name: value for name, value in row._asdict().items() if name not in ("previous_hash", "hash")}
    members |= {
        "intent_id": row.intent_id and str(row.intent_id),
        "reverses": row.reverses and str(row.reverses),
        "fingerprint": row.fingerprint.hex(),
        "legs": [
            {
                "account": account,
                "direction": DIRECTION_NAMES[direction],
                "amount_minor": str(amount_minor),
                "currency": currency,
            }
            for account, direction, amount_minor, currency in row.legs
        ],
    }
    return hashlib.sha256(row.previous_hash + rfc8785.dumps(members)).digest()
