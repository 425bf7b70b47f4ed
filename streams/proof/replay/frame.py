"""Restores the frame of the books from ledger.frame: its facts and rows, before any record names an account."""

from collections.abc import Mapping, Sequence
from typing import Any

from db import replay_frame as db
from domain.facts import compute_fact_hash
from domain.journal import GENESIS_HASH
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.proof.records.decoding import RecordReader
from streams.proof.records.pages import read_all
from streams.proof.replay.lane_replay import ReplayRefused

Fact = Mapping[str, Any]


def restore_frame(connection: Any, kafka: Kafka, registry: SchemaRegistry, topic: str, *, is_empty: bool) -> bool:
    """Give the database the facts that it lacks, and apply them to its tables; harmless to repeat.

    `is_empty`: nothing was ever posted here, so the topic's facts may replace the database's own. Return False if the
    topic has no facts, because the ledger is older than facts are; the database then keeps its own. Raise ReplayRefused
    if the topic's chains do not hold, or if they differ from those of a database that has postings.
    """
    reader = RecordReader(registry, "ledger.frame-value")
    facts = []
    for offset, fact in read_all(kafka, topic, reader):
        if isinstance(fact, str):
            raise ReplayRefused(f"Offset {offset} of {topic} holds no fact ({fact}): restore that topic.")
        facts.append(fact)
    told = _check_chains(facts, topic)
    if not told:
        return False
    replace = False
    own = db.read_chains(connection)
    for chain, (next_seq, head) in own.items():
        published = told.get(chain, [])
        common = min(next_seq, len(published))
        here = head if common == next_seq else db.find_fact_hash(connection, chain, common - 1)
        if common and here != published[common - 1]["hash"]:
            if not is_empty:
                raise ReplayRefused(
                    f"This database has other facts than {topic} in chain {chain}: replay into an empty database."
                )
            replace = True
    missing = [fact for fact in facts if replace or fact["seq"] >= own.get(fact["chain"], (0, b""))[0]]
    if missing:
        db.put_facts(connection, missing, replace=replace)
    return True


def _check_chains(facts: Sequence[Fact], topic: str) -> dict[int, list[Fact]]:
    """Return the facts by chain, in order; raise ReplayRefused at the first fact that does not follow the last."""
    told: dict[int, list[Fact]] = {}
    for fact in facts:
        chain = told.setdefault(fact["chain"], [])
        head = chain[-1]["hash"] if chain else GENESIS_HASH
        if fact["seq"] != len(chain) or fact["previous_hash"] != head or fact["hash"] != compute_fact_hash(head, fact):
            raise ReplayRefused(
                f"{topic} cannot be replayed from chain {fact['chain']} seq {fact['seq']} on, as that fact does not"
                " follow from the one before it: restore that topic, and see `ledgerline reconcile`."
            )
        chain.append(fact)
    return told
