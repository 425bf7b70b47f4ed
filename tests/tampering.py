"""Changes that the database's owner can make to a row between its commit and its relay, as skilfully as possible."""

from typing import Any

from domain.hash_chain import chain_row
from domain.journal import JournalRow
from domain.outcomes import Outcome
from tests.posting_bench import RECORDS
from tests.proving_bench import ProvingBench


def turn_into_rejected(bench: ProvingBench, lane: int, reason: str, detail: str = "") -> dict[str, Any]:
    """Turn the last row of a lane into a rejection: delete its legs and their sums, and compute hash and head anew."""
    row = bench.rows(RECORDS, lane)[-1]
    seq = row["seq"]
    fields = {name: row.get(name) for name in JournalRow._fields}
    fields |= {"outcome": Outcome.REJECTED, "reason": reason, "detail": detail, "legs": (), "value_time": None}
    changed = chain_row(row["previous_hash"], JournalRow(**fields | {"metadata": row["metadata"] or {}}))
    bench.tamper(
        "UPDATE ledger.balance AS b SET debits_minor = b.debits_minor - e.debits, credits_minor = b.credits_minor"
        " - e.credits, seq = coalesce((SELECT max(o.seq) FROM ledger.entry AS o WHERE o.account_id = b.account_id AND"
        " o.currency = b.currency AND o.lane = b.lane AND o.seq < %s), 0)"
        " FROM (SELECT account_id, currency, sum(amount_minor) FILTER (WHERE direction = 1) AS debits,"
        " sum(amount_minor) FILTER (WHERE direction = -1) AS credits FROM (SELECT account_id, currency, direction,"
        " amount_minor FROM ledger.entry WHERE lane = %s AND seq = %s UNION ALL SELECT account_id, currency,"
        " -direction, 0 FROM ledger.entry WHERE lane = %s AND seq = %s) AS both_sides"
        " GROUP BY account_id, currency) AS e"
        " WHERE b.lane = %s AND b.account_id = e.account_id AND b.currency = e.currency",
        seq, lane, seq, lane, seq, lane,
    )  # fmt: skip
    bench.tamper("DELETE FROM ledger.balance WHERE lane = %s AND debits_minor = 0 AND credits_minor = 0", lane)
    bench.tamper("DELETE FROM ledger.entry WHERE lane = %s AND seq = %s", lane, seq)
    bench.tamper(
        "UPDATE ledger.journal SET outcome = 'rejected', reason = %s, detail = %s, leg_count = 0, value_time = NULL,"
        " hash = %s WHERE lane = %s AND seq = %s",
        reason, detail, changed.hash, lane, seq,
    )  # fmt: skip
    bench.tamper("UPDATE ledger.lane SET head = %s WHERE lane = %s", changed.hash, lane)
    return row
