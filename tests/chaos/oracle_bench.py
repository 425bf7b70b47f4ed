"""A ledger with every kind of row, the answers that its clients got, and ways to damage it for the oracle."""

from copy import copy
from dataclasses import replace
from hashlib import sha256
from typing import Any

from confluent_kafka import Producer

from db.relay import RelayStore
from domain.intents import compute_intent_id
from domain.topics import Topics
from runtime.settings import Settings
from streams.fenced import PartitionBatch
from tests.posting_bench import PostingBench, leg
from tests.proving_bench import ProvingBench
from tools.chaos.oracle import Acknowledged, Place, Planted, Verdict, judge

BREAK = (
    "INSERT INTO {agent}.break VALUES (gen_random_uuid(), '{kind}', '{subject}', '{state}', {lane}, {seq}, 'Planted.',"
    " '{{}}', 0, 0, NULL)"
)


Where = tuple[str, str]
"""The check that found a fault, and the place of the fault."""

ENTRY = "UPDATE ledger.entry SET amount_minor = amount_minor + 1 WHERE lane = %s AND seq = %s"
ROW = "UPDATE ledger.journal SET {} WHERE lane = %s AND seq = %s"
DELETED = (
    "WITH gone AS (DELETE FROM ledger.entry WHERE lane = %s AND seq = %s RETURNING lane, seq)"
    " DELETE FROM ledger.journal AS j USING gone WHERE j.lane = gone.lane AND j.seq = gone.seq"
)
SHARD = """UPDATE ledger.balance SET credits_minor = credits_minor + 1 WHERE lane = 0 AND account_id =
    (SELECT account_id FROM ledger.account WHERE address = 'users:2:wallet')"""


class OracleBench(ProvingBench):
    """Keeps the answers that clients got, as the load of a chaos run does."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        super().__init__(settings, topics)
        self.acknowledged: list[Acknowledged] = []
        self.place = Place(self.kafka.bootstrap, self.dsn, self.registry.url, topics.prefix)

    def ask(self, asked: dict[str, Any], lane: int = 0) -> Acknowledged:
        """Send an intent and record the answer."""
        body = repr({name: value for name, value in asked.items() if name != "accepted_time"}).encode()
        answer = Acknowledged(
            asked["tenant"],
            asked["idempotency_key"],
            asked["intent_id"],
            lane,
            self.send(asked, lane),
            sha256(body).hexdigest(),
        )
        self.acknowledged.append(answer)
        return answer

    def fill(self) -> None:
        """Post every outcome and every kind of repeat and reversal, on both lanes, but do not relay them."""
        transfer, bank = self.transfer, "external:bank"
        for number in range(6):
            metadata = {"order": f"ä-{number} \U0001f4b8", "kind": 'a "b"\n'}
            wallet = f"users:{number}:wallet"
            self.ask(transfer(f"in-{number}", bank, wallet, 1000 + number, metadata=metadata), number % 2)
        self.ask(transfer("spend", "users:0:wallet", "merchants:m", 600, reference="Für Dich", value_time=5))
        self.ask(
            transfer("in-0", bank, "users:0:wallet", 1000, metadata={"order": "ä-0 \U0001f4b8", "kind": 'a "b"\n'})
        )
        self.ask(transfer("in-1", bank, "users:1:wallet", 999), 1)
        self.post()
        self.ask(transfer("in-2", bank, "users:2:wallet", 7), 1)
        self.ask(
            transfer("in-0", bank, "users:0:wallet", 1000, metadata={"order": "ä-0 \U0001f4b8", "kind": 'a "b"\n'}), 1
        )
        self.ask(transfer("too-much", "users:3:wallet", "users:4:wallet", 100_000))
        self.ask(transfer("lame", bank, "users:1:wallet", 5, metadata={"no key ü": "x"}), 1)
        self.ask(transfer("two", bank, "users:1:wallet", 5) | {"legs": _two_currencies()})
        self.send_bytes(b"\x00nothing", key=b"key", headers=[("a\x00b", b"\xff"), ("none", None)])
        self.send_bytes(None, lane=1)
        self.send({**transfer("other", bank, "users:1:wallet", 5), "tenant": "nobody"}, 1)
        stranger = str(compute_intent_id("strangers", "strange"))
        self.send(transfer("strange", bank, "users:1:wallet", 5, tenant="strangers", intent_id=stranger), 1)
        original = {"type": "reversal", "reverses": str(compute_intent_id("default", "in-4"))}
        self.ask({**transfer("back-1", "users:4:wallet", bank, 4), **original})
        self.ask({**transfer("back-2", "users:4:wallet", bank, 1), **original, "legs": []})
        self.ask({**transfer("back-3", "users:4:wallet", bank, 1), **original, "legs": []}, 1)
        self.post()

    def make_copy(self, dsn: str) -> "OracleBench":
        """Return the same ledger with another database, a copy of its own, to be damaged and judged, not posted to."""
        made = copy(self)
        made.dsn, made.place = dsn, replace(self.place, postgres_dsn=dsn)
        made.acknowledged = list(self.acknowledged)
        return made

    def judge(self, *planted: Planted) -> Verdict:
        """Return the oracle's verdict, with all answers that clients got."""
        return judge(self.place, self.acknowledged, planted)

    def found(self, *planted: Planted) -> set[tuple[str, str]]:
        """Return check and place of each fault that the oracle finds."""
        return {(fault.check, fault.where) for fault in self.judge(*planted).faults}

    def seq_of(self, key: str, outcome: str = "posted") -> tuple[int, int]:
        """Return lane and seq of the key's row with this outcome."""
        (row,) = self.rows(
            "SELECT lane, seq FROM ledger.journal WHERE idempotency_key = %s AND outcome = %s ORDER BY lane LIMIT 1",
            key,
            outcome,
        )
        return row["lane"], row["seq"]

    def add_break(
        self,
        agent: str,
        kind: str,
        subject: str,
        lane: int | None = None,
        seq: int | None = None,
        state: str = "open",
    ) -> Planted:
        """Insert a break as the agent would store it; return it as Planted."""
        null = "NULL"
        self.tamper(
            BREAK.format(
                agent=agent,
                kind=kind,
                subject=subject,
                state=state,
                lane=null if lane is None else lane,
                seq=null if seq is None else seq,
            )
        )
        return Planted(agent, kind, lane, seq)

    def published(self, lane: int) -> list[dict[str, Any]]:
        """Return the lane's records as the relay would send them."""
        store = RelayStore(self.dsn)
        try:
            return store.records(lane, 0, 1000)
        finally:
            store.close()

    def publish(self, records: list[dict[str, Any]]) -> None:
        """Forge ledger.journal: send these records in this order."""
        producer = Producer({**self.kafka.make_client_options(), "linger.ms": 0})
        for record in records:
            key = record["intent_id"].encode() if record["intent_id"] else None
            producer.produce(self.topics.journal, self.encode_journal(record), key, partition=record["lane"])
        assert producer.flush(30) == 0

    def batches(self, lane: int) -> list[PartitionBatch]:
        """Return a lane's waiting intents, one batch each, so that each intent gets its own transaction."""
        (whole,) = self.fetch((lane,))
        return [
            whole._replace(expected_offset=message.offset, messages=[message], end_offset=message.offset + 1)
            for message in whole.messages
        ]


def at(check: str, lane: int, seq: int) -> Where:
    """Return the place of a row's fault."""
    return (check, f"lane {lane} seq {seq}")


def shard(account: str, lane: int) -> Where:
    """Return the place of a fault of a balance in euros."""
    return ("balances", f"default {account} EUR lane {lane}")


def spoilt(honest: OracleBench, key: str, statement: str, outcome: str = "posted") -> tuple[int, int]:
    """Run a statement on the key's row with triggers disabled; return its lane and seq."""
    place = honest.seq_of(key, outcome)
    honest.tamper(statement, *place)
    return place


def _two_currencies() -> list[dict[str, Any]]:
    pairs = PostingBench.transfer("", "external:bank", "users:5:wallet", 9)["legs"]
    return [*pairs, leg("users:5:wallet", "debit", 3), leg("merchants:m", "credit", 3, "EUR"), *_dollars()]


def _dollars() -> list[dict[str, Any]]:
    return [leg("external:bank", "debit", 2**53 + 1, "USD"), leg("users:5:wallet", "credit", 2**53 + 1, "USD")]
