"""`replay --verify`, which compares with the live ledger, and `replay --books`, for books that no topic holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams.proof.replay.comparison import compare
from tests.command_line import environment, run, run_json
from tests.copies import beside
from tests.proving_bench import ProvingBench
from tests.replay_bench import loaded, refusal, replay, sign, varied


@pytest.fixture
def target(proving: ProvingBench) -> Iterator[str]:
    """Yield the DSN of a database that does not exist yet."""
    with beside(proving.dsn, "replayed") as dsn:
        yield dsn


# ---------------------------------------------------------------------------------------------------- --verify

PLANTS = {
    "a booked time": ("UPDATE ledger.journal SET booked_time = booked_time + 1 WHERE lane = 0 AND seq = 4",
                      ("journal", 0, "seq 4", "booked_time")),
    "an amount": ("UPDATE ledger.entry SET amount_minor = amount_minor + 1 WHERE lane = 1 AND seq = 1 AND leg = 1",
                  ("entry", 1, "seq 1 leg 1", "amount_minor")),
    "an entry's account": ("UPDATE ledger.account SET address = address || 'x' WHERE address = 'users:1:wallet'",
                           ("entry", 0, "seq 6 leg 1", "address")),
    "a floor": ("UPDATE ledger.account SET floor_minor = -1 WHERE address = 'users:0:wallet'",
                ("entry", 0, "seq 0 leg 1", "floor_minor")),
    "a balance": ("UPDATE ledger.balance SET credits_minor = credits_minor + 1 WHERE lane = 1 AND currency = 'JPY'",
                  ("balance", 1, "default external:bank JPY", "credits_minor")),
    "raw bytes": ("UPDATE ledger.quarantine SET value = 'x' WHERE lane = 0",
                  ("quarantine", 0, "seq 8", "value")),
    "a row": ("DELETE FROM ledger.journal WHERE lane = 1 AND seq = 3", ("journal", 1, "seq 3", "row")),
}  # fmt: skip


KEPT = ("journal", "entry", "account", "balance", "quarantine")


def keep(connection: psycopg.Connection[Any]) -> None:
    """Copy the tables that the test edits, under the same names."""
    connection.execute("CREATE SCHEMA kept")
    for table in KEPT:
        connection.execute(f"CREATE TABLE kept.{table} AS TABLE ledger.{table}".encode())


def put_back(connection: psycopg.Connection[Any]) -> None:
    for table in KEPT:
        connection.execute(f"TRUNCATE ledger.{table} CASCADE".encode())
        overriding = "OVERRIDING SYSTEM VALUE" if table == "account" else ""
        connection.execute(f"INSERT INTO ledger.{table} {overriding} TABLE kept.{table}".encode())


def test_verify_names_the_first_difference(proving: ProvingBench, target: str) -> None:
    varied(proving)
    replay(proving, target)
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        keep(connection)
        for name, (statement, expected) in PLANTS.items():
            assert connection.execute(statement.encode()).rowcount >= 1, name
            found = compare(target, proving.dsn).difference
            assert found is not None, name
            assert (found.table, found.lane, found.place, found.member) == expected, name
            assert found.replayed != found.live, name
            put_back(connection)
        assert compare(target, proving.dsn).difference is None
        connection.execute(PLANTS["an amount"][0].encode())
    told = replay(proving, target, "--verify", code=1)["difference"]
    assert (told["table"], told["place"], told["member"]) == ("entry", "seq 1 leg 1", "amount_minor")
    assert int(told["replayed"]) == int(told["live"]) + 1


def test_verify_allows_a_live_ledger_to_be_further(proving: ProvingBench, target: str) -> None:
    """Sums beyond 64 bits are rebuilt and compared like all others."""
    varied(proving)
    for number in range(3):
        proving.send(proving.transfer(f"big{number}", "external:a", "external:b", 2**63 - 1))
    proving.post_and_relay()
    replay(proving, target)
    assert replay(proving, target, "--verify")["difference"] is None
    proving.send(proving.transfer("not relayed", "external:bank", "users:1:wallet", 5))
    proving.post()
    assert replay(proving, target, "--verify")["difference"] is None
    assert "--verify compares with another database" in refusal(proving, proving.dsn, "--verify")


# ---------------------------------------------------------------------------------------------------- the books


def test_books_from_a_file_stand_in_for_a_ledger_that_is_gone(
    proving: ProvingBench, target: str, tmp_path: Path
) -> None:
    variables = environment(proving.settings)
    run(variables, "units", "add", "MILES", "--exponent", "1")
    run(variables, "tenants", "add", "shop")
    key = run_json(variables, "keys", "add", "checkout", "--scope", "intents:write")
    varied(proving)
    sign(proving)
    run(variables, "chart", "set", "users:**", "liability", "--floor-minor", "-500")  # open accounts keep their floor
    file = tmp_path / "books.json"
    counted = run_json(variables, "books", "export", str(file))
    assert (counted["tenants"], counted["units"], counted["api_keys"], counted["signing_keys"]) == (2, 1, 1, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    proving.send(proving.transfer("later", "external:bank", "users:later", 5))
    proving.post_and_relay()

    gone = {"LEDGERLINE_POSTGRES_DSN": target}
    done = replay(proving, target, "--books", str(file), **gone)
    assert (done["loaded"], done["checkpoints"]) == (True, 1)
    assert replay(proving, target, "--verify")["difference"] is None, "the floors too"
    frames = []
    for dsn in (proving.dsn, target):
        run({**variables, "LEDGERLINE_POSTGRES_DSN": dsn}, "books", "export", str(file))
        frames.append(json.loads(file.read_text()))
    for part in ("tenants", "units", "chart", "api_keys", "topics"):
        assert frames[0][part] == frames[1][part], part
    floors = [{a["address"]: a["floor_minor"] for a in frame["accounts"]} for frame in frames]
    assert floors[0] == floors[1]
    assert (floors[1]["users:1:wallet"], floors[1]["users:later"]) == (0, -500)
    assert key["key_id"] in {row["key_id"] for row in frames[1]["api_keys"]}


def test_books_that_are_none_are_refused(proving: ProvingBench, target: str, tmp_path: Path) -> None:
    file = tmp_path / "books.json"
    assert "holds no books" in refusal(proving, target, "--books", str(file))
    file.write_text("{}")
    assert "These are no books of the format" in refusal(proving, target, "--books", str(file))
    whole = run(environment(proving.settings), "books", "export", str(file)) and json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "accounts": [{"tenant": "nobody", "address": "a"}]}))
    assert "Postgres refuses the books" in refusal(proving, target, "--books", str(file))


def test_an_account_that_no_chart_opens_is_refused(proving: ProvingBench, target: str, tmp_path: Path) -> None:
    file = tmp_path / "books.json"
    run(environment(proving.settings), "books", "export", str(file))
    varied(proving)
    # A ledger that is older than the facts has none on the topic, so they are deleted.
    end = proving.read(proving.topics.frame, 0, 0)[1]
    admin = AdminClient(proving.kafka.make_client_options())
    for deleted in admin.delete_records([TopicPartition(proving.topics.frame, 0, end)]).values():
        deleted.result(30)
    assert "The database has no tenant" in refusal(proving, target, LEDGERLINE_POSTGRES_DSN=target)
    books = json.loads(file.read_text())
    file.write_text(json.dumps({**books, "chart": []}))
    assert "No chart here opens the account" in refusal(proving, target, "--books", str(file))
    assert loaded(target) == 0, "it is not finished"
    assert replay(proving, target, "--verify")["difference"] is None, "and goes on with better books"
