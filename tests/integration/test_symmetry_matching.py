"""The matching of movements in Postgres, against a naive model; and a sweep over very many accounts."""

import random
import time
from typing import Any, Final

import psycopg
import pytest

from db import symmetry
from db.agent_connection import AgentConnection
from db.binary import register
from db.reconciliation import ROLE
from domain.symmetry import SymmetryRules, parse_rules
from streams.proof.reconciliation.clearing import ClearingSweep
from tests.proving_bench import ProvingBench

SWEEP_SECONDS_MAX: Final = 60

Step = tuple[int, int, int, int]
"""Lane, seq, signed amount, booking time."""


def find_since(steps: list[Step]) -> tuple[int, int | None]:
    """Return the net amount and the time of the oldest unit without a return, unit by unit."""
    units: list[tuple[int, int]] = []
    for lane, seq, amount, booked in sorted(steps, key=lambda step: (step[3], step[0], step[1])):
        del lane, seq
        for _ in range(abs(amount)):
            sign = 1 if amount > 0 else -1
            if units and units[0][0] == -sign:
                units.pop(0)
            else:
                units.append((sign, booked))
    return sum(sign for sign, _ in units), units[0][1] if units else None


def add(connection: Any, address: str, step: Step) -> None:
    lane, seq, amount, booked = step
    connection.execute(
        "INSERT INTO reconciliation.balance AS b VALUES ('t', %s, 'EUR', %s, greatest(%s, 0), greatest(-%s, 0), %s)"
        " ON CONFLICT (tenant, address, currency, lane) DO UPDATE SET debits_minor = b.debits_minor +"
        " excluded.debits_minor, credits_minor = b.credits_minor + excluded.credits_minor, seq = excluded.seq",
        (address, lane, amount, amount, seq),
    )
    direction = 1 if amount > 0 else -1
    symmetry.add_movements(
        connection, [symmetry.Movement("t", address, "EUR", direction, lane, seq, abs(amount), booked)]
    )


@pytest.mark.parametrize("seed", range(8))
def test_matching_and_pruning_agree_with_a_naive_model(proving: ProvingBench, seed: int) -> None:
    """Lanes arrive interleaved, each in its own order; rows are pruned up to the slower lane at any moment."""
    chance = random.Random(seed)
    waiting: dict[int, list[Step]] = {
        lane: [
            (lane, seq, chance.choice([-3, -2, -1, 1, 2, 3]), booked)
            for seq, booked in enumerate(sorted(chance.sample(range(1000), 25)))
        ]
        for lane in (0, 1)
    }
    taken: list[Step] = []
    account = ("t", "clearing:a", "EUR")
    with psycopg.connect(proving.dsn) as connection:
        register(connection)
        while any(waiting.values()):
            lane = chance.choice([lane for lane, steps in waiting.items() if steps])
            step = waiting[lane].pop(0)
            taken.append(step)
            add(connection, "clearing:a", step)
            if chance.random() < 0.5:
                ends = [steps[0][3] - 1 for steps in waiting.values() if steps]
                symmetry.prune(connection, {account: 0}, [], min(ends, default=1000))
            net, since = find_since(taken)
            found = symmetry.judge(connection, {account: 0})
            assert found == ({} if net == 0 else {account: symmetry.Away(net, since)})
        symmetry.prune(connection, {account: 0}, [], 1000)
        rows = connection.execute("SELECT direction FROM reconciliation.unmatched").fetchall()
        assert {row[0] for row in rows} == ({net // abs(net)} if net else set())
        connection.rollback()


def test_a_hundred_thousand_accounts_away_are_swept_in_seconds(proving: ProvingBench) -> None:
    proving.tamper(
        "INSERT INTO reconciliation.balance"
        " SELECT 't', 'clearing:' || n, 'EUR', n %% 2, 5, 0, n FROM generate_series(1, %s) AS n",
        100_000,
    )
    proving.tamper(
        "INSERT INTO reconciliation.unmatched SELECT tenant, address, currency, 1, lane, seq, 5, 0"
        " FROM reconciliation.balance"
    )
    store = AgentConnection(proving.dsn, ROLE)
    sweep = ClearingSweep(store, SymmetryRules(parse_rules("in=clearing:*:0:60")))
    for _ in range(2):
        started = time.monotonic()
        assert sum(1 for _ in sweep.list_pages()) == 102
        assert time.monotonic() - started < SWEEP_SECONDS_MAX
        assert proving.rows("SELECT count(*) AS breaks FROM reconciliation.break") == [{"breaks": 100_000}]
    store.close()
