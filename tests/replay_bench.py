"""Helpers for tests of replay: a ledger with every outcome in it, and the command line's answers."""

from typing import Any

import psycopg

from runtime.schemas import parse_own_schema, read_body
from runtime.settings import Settings
from streams.proof.audit.service import Audit, ensure_key, wire_audit
from tests.command_line import environment, run, run_json
from tests.integration.test_reconciliation import busy
from tests.migration.catalog import catalog
from tests.posting_bench import PostingBench
from tests.proving_bench import ProvingBench


def varied(bench: ProvingBench) -> None:
    """Fill the ledger: every outcome, whole and partial reversals, legs of several currencies, all kinds of texts."""
    busy(bench)
    first = bench.transfer("whole", "external:bank", "users:1:wallet", 700, reference="läuft 💸", metadata={"a.b": "ü"})
    bench.send(first)
    parts = [
        bench.transfer("back-1", "users:1:wallet", "external:bank", 200),
        {**bench.transfer("back-2", "users:1:wallet", "external:bank", 1), "legs": []},
    ]
    for part in parts:
        bench.send({**part, "type": "reversal", "reverses": first["intent_id"]})
    euros = bench.transfer("mixed", "external:bank", "users:2:wallet", 5)
    yen = bench.transfer("mixed", "external:bank", "users:2:wallet", 7, "JPY")
    bench.send({**euros, "legs": euros["legs"] + yen["legs"]}, lane=1)
    bench.send_bytes(b"\x00odd", lane=1, key=b"k\x00", headers=[("h\x00", b"\xff"), ("none", None)])
    bench.post_and_relay()


def replay(bench: ProvingBench, dsn: str, *options: str, code: int = 0, **variables: str) -> Any:
    """Run `ledgerline replay --into`; return its JSON."""
    return run_json(environment(bench.settings) | variables, "replay", "--into", dsn, *options, code=code)


def refusal(bench: ProvingBench, dsn: str, *options: str, **variables: str) -> str:
    """Return the message of a refused `ledgerline replay --into`."""
    return run(environment(bench.settings) | variables, "replay", "--into", dsn, *options, code=1).stderr


def auditing(bench: PostingBench, settings: Settings) -> Audit:
    quick = settings.model_copy(update={"audit_checkpoint_seconds": 0.001})
    return wire_audit(bench.kafka, bench.dsn, bench.registry, bench.topics, ensure_key(quick), quick)


def sign(bench: ProvingBench) -> int:
    """Audit everything, sign a checkpoint and publish it; return its number."""
    agent = auditing(bench, bench.settings)
    bench.feed(agent.auditor)
    signed = agent.signer.sign_if_due()
    agent.signer.publish()
    agent.close()
    assert signed is not None
    return signed.checkpoint


def published_checkpoints(bench: ProvingBench) -> list[int]:
    schema = parse_own_schema("audit.checkpoints-value")
    messages, _ = bench.read(bench.topics.checkpoints, 0, 0)
    return [read_body(message.value, schema)["checkpoint"] for message in messages]


def schema_of(dsn: str) -> dict[str, list[str]]:
    with psycopg.connect(dsn) as connection:
        found = catalog(connection)
    return {kind: lines for kind, lines in found.items() if kind != "rows"}


def loaded(dsn: str) -> int:
    """Return how many records an unfinished load has; -1 if there is none."""
    try:
        with psycopg.connect(dsn) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(next_seq), 0)::bigint, (SELECT count(*) FROM replay.dropped) FROM replay.lane"
            ).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return -1
    return int(row[0]) if row is not None and row[1] else -1
