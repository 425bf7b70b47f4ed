"""Breaks that are planted without the ledger's knowledge. The agents must find each of them, and nothing else."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import psycopg
from confluent_kafka import Producer

from producers.encoding import make_encoder
from runtime.schemas import find_registered_id, make_registry_client
from tools.chaos.oracle import Planted
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

FOUND_SECONDS_MAX: Final = 60.0


class Row(NamedTuple):
    """A posted journal row to damage."""

    lane: int
    seq: int


def _alter_row(admin: "psycopg.Connection[Any]", row: Row) -> list[Planted]:
    admin.execute("UPDATE ledger.journal SET reference = 'altered' WHERE lane = %s AND seq = %s", row)
    return [Planted("audit", "stored", *row)]


def _alter_entry(admin: "psycopg.Connection[Any]", row: Row) -> list[Planted]:
    admin.execute(
        "UPDATE ledger.entry SET amount_minor = amount_minor + 1 WHERE lane = %s AND seq = %s AND leg = 0", row
    )
    return [Planted("reconciliation", "entries", *row), Planted("audit", "stored", *row)]


def _delete_row(admin: "psycopg.Connection[Any]", row: Row) -> list[Planted]:
    admin.execute("DELETE FROM ledger.entry WHERE lane = %s AND seq = %s", row)
    admin.execute("DELETE FROM ledger.journal WHERE lane = %s AND seq = %s", row)
    return [Planted("reconciliation", "entries", *row), Planted("audit", "stored", *row)]


def _insert_row(admin: "psycopg.Connection[Any]", row: Row) -> list[Planted]:
    """Insert a row beyond the lane's end, where no reader of the topic would look."""
    inserted = admin.execute(
        """INSERT INTO ledger.journal
        SELECT (jsonb_populate_record(j, jsonb_build_object(
            'seq', l.next_seq + 9, 'intent_id', gen_random_uuid()))).*
        FROM ledger.journal AS j INNER JOIN ledger.lane AS l USING (lane) WHERE j.lane = %s AND j.seq = %s
        RETURNING seq""",
        row,
    ).fetchone()
    seq = inserted[0] if inserted else None
    return [Planted("reconciliation", "entries", row.lane, seq), Planted("audit", "stored", row.lane, seq)]


def _edit_shard(admin: "psycopg.Connection[Any]", row: Row) -> list[Planted]:
    admin.execute(
        """UPDATE ledger.balance SET credits_minor = credits_minor + 1 WHERE (account_id, currency, lane) IN (
            SELECT account_id, currency, lane FROM ledger.entry WHERE lane = %s AND seq = %s AND leg = 1)""",
        row,
    )
    return [Planted("reconciliation", "balance", row.lane, None)]


PLANTS: Final[tuple[Callable[["psycopg.Connection[Any]", Row], list[Planted]], ...]] = (
    _alter_row,
    _alter_entry,
    _delete_row,
    _insert_row,
    _edit_shard,
)


def tamper(trial: Trial) -> None:
    """Alter, delete and insert rows and edit a shard as a superuser, with the triggers disabled."""
    rows = [Row(*row) for row in trial.ledger.rows(
        "SELECT lane, seq FROM ledger.journal WHERE outcome = 'posted' AND reverses IS NULL AND leg_count = 2"
        " ORDER BY lane, seq"
    )]  # fmt: skip
    with psycopg.connect(trial.ledger.dsn, autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        for plant, row in zip(PLANTS, trial.random.sample(rows, len(PLANTS)), strict=True):
            trial.say(f"{plant.__name__.strip('_').replace('_', ' ')} of lane {row.lane} seq {row.seq}")
            moment = _committed_moment(admin, row)
            trial.planted += [planted._replace(moment=moment) for planted in plant(admin, row)]
    wait_found(trial)


def _committed_moment(admin: "psycopg.Connection[Any]", row: Row) -> int | None:
    """Return the row's commit time in microseconds since 1970: the oracle checks floors in commit order."""
    found = admin.execute(
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM ledger.journal"
        " WHERE lane = %s AND seq = %s",
        row,
    ).fetchone()
    return found[0] if found else None


def leave_out_record(trial: Trial) -> None:
    """Make the relay leave one record out of ledger.journal, with a position that is one record too far."""
    (relay,) = trial.fleet["relay"]
    trial.let_flow()
    relay.stop()
    aim = trial.posted() + 50
    trial.wait_until(lambda: trial.posted() >= aim, "records wait for the relay")
    next_to_come = """SELECT j.lane, j.seq, j.hash FROM ledger.journal AS j
        INNER JOIN reconciliation.lane AS r ON r.lane = j.lane AND r.next_seq = j.seq
        WHERE j.outcome = 'posted' ORDER BY j.lane LIMIT 1"""
    trial.wait_until(lambda: trial.ledger.rows(next_to_come), "a posted record is the next of some lane")
    ((lane, seq, head),) = trial.ledger.rows(next_to_come)
    with make_registry_client(trial.ledger.endpoints.registry) as client:
        encode = make_encoder("ledger.relay-value", find_registered_id(client, "ledger.relay-value"))
    producer = Producer({**trial.ledger.endpoints.kafka.make_client_options(), "enable.idempotence": True})
    position = encode({"lane": lane, "next_seq": seq + 1, "head": head})
    producer.produce(trial.ledger.topics.relay, position, str(lane).encode(), partition=0)
    producer.flush(30)
    trial.say(f"the relay is told that it has lane {lane} seq {seq} behind it")
    trial.planted += [
        Planted("reconciliation", "conservation", lane, seq),
        Planted("reconciliation", "balance", lane, None),
        Planted("audit", "chain", lane, seq),
    ]
    relay.start()


def wait_found(trial: Trial) -> None:
    """Wait until the agents have found each planted break. Only the oracle judges which breaks are faults."""
    found = """SELECT 'reconciliation', kind, lane, seq FROM reconciliation.break WHERE state <> 'resolved'
        UNION ALL SELECT 'audit', kind, lane, seq FROM audit.break WHERE state <> 'resolved'"""

    def all_found() -> bool:
        rows = trial.ledger.rows(found)
        return all(
            any(
                row[:3] == (each.found_by, each.kind, each.lane) and (each.seq is None or row[3] == each.seq)
                for row in rows
            )
            for each in trial.planted
        )

    trial.wait_until(all_found, f"the agents find {len(trial.planted)} planted breaks", FOUND_SECONDS_MAX)


SCENARIOS: Final = (
    Scenario(
        "tampering",
        "If somebody alters, deletes or inserts rows, or edits a balance, without the ledger, the provers find it.",
        lambda trial: trial.let_flow(500),
        tamper,
        own_ledger=True,
    ),
    Scenario(
        "record-left-out",
        "The provers find a record that is missing from ledger.journal.",
        leave_out_record,
        wait_found,
        own_ledger=True,
    ),
)
