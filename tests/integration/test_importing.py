"""Imports by the command line, through the real API, Kafka and posting worker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.demo.example import make_example
from db.access import list_keys
from db.books import list_units
from db.connections import connect
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.api_bench import ApiBench
from tests.command_line import environment, run, run_json
from tests.service_process import ServiceProcess

EXAMPLES = REPOSITORY_ROOT / "examples"


@pytest.fixture
def ledger(settings: Settings, api: ApiBench, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment variables of a ledger with an API and a posting worker."""
    variables = environment(settings) | {"LEDGERLINE_API_URL": api.url}
    with ServiceProcess("posting", settings, tmp_path) as worker:
        worker.wait_until_ready()
        yield variables
        worker.stop(30)


def _counts(report: dict[str, Any]) -> tuple[int, int, int, int]:
    return report["posted"], report["duplicates"], len(report["unposted"]), len(report["problems"])


def _post_by_another(api: ApiBench) -> None:
    """Post a transfer of another client on an account that the import uses too."""
    legs = ("assets:US:ETrade:Cash", "debit"), ("income:others", "credit")
    intent = {
        "type": "transfer",
        "legs": [
            {"account": account, "direction": direction, "amount_minor": 5, "currency": "USD"}
            for account, direction in legs
        ],
    }
    headers = {"Authorization": f"Bearer {api.new_key()}", "Idempotency-Key": "another"}
    answer = httpx.post(f"{api.url}/v1/intents", json=intent, headers={**headers, "Prefer": "wait=20"})
    assert answer.json()["status"] == "posted"


def test_four_years_are_imported_once_and_agree_with_beancount(
    ledger: dict[str, str], api: ApiBench, tmp_path: Path
) -> None:
    path = tmp_path / "example.beancount"
    make_example(path)
    first = run_json(ledger, "import", "beancount", str(path))
    assert first["transactions"] > 1100
    assert _counts(first) == (first["transactions"], 0, 0, 0)
    assert first["differences"] == []
    assert first["sums_compared"] > 60
    assert first["assertions_checked"] > 100
    assert {"VACHR", "VBMPX", "IRAUSD"} <= first["units_registered"].keys()

    path.write_text('2024-01-01 open Assets:New\n1970-01-01 open Income:New\n\n' + path.read_text() + (
        '\n2024-01-02 * "A new transaction"\n  Assets:New  1.00 USD\n  Income:New  -1.00 USD\n'
    ))  # fmt: skip
    _post_by_another(api)
    renamed = path.rename(tmp_path / "renamed.beancount")
    again = run_json(ledger, "import", "beancount", str(renamed))
    assert _counts(again) == (1, first["transactions"], 0, 0)
    assert again["differences"] == []
    assert again["units_registered"] == {}

    (key,) = _keys(ledger)[-1:]
    assert key["revoked_time"] is not None


def _keys(ledger: dict[str, str]) -> list[dict[str, Any]]:
    with connect(ledger["LEDGERLINE_POSTGRES_DSN"], "ledgerline_operator") as connection:
        return [row for row in list_keys(connection) if row["name"].startswith("ledgerline import")]


def test_a_statement_lists_what_it_cannot_map_and_posts_the_rest(ledger: dict[str, str], api: ApiBench) -> None:
    statement = (
        "import",
        "csv",
        str(EXAMPLES / "bank-statement.csv"),
        "--mapping",
        str(EXAMPLES / "bank-statement.toml"),
    )
    report = run_json(ledger, *statement, code=1)
    assert _counts(report) == (6, 0, 0, 1)
    assert report["problems"][0]["line"] == 10
    assert report["without_money"] == {"blank line": 1, "row of zero": 1}
    assert report["units_registered"] == {"MILES": 0}
    shown = run(ledger, *statement, "--allow-unmapped")
    assert "posted by an earlier import" in shown.stdout
    assert "bank-statement.csv:10: No rule of the mapping matches" in " ".join(shown.stderr.split())
    with_key = {**ledger, "LEDGERLINE_API_KEY": api.new_key()}
    balances = run_json(with_key, "balance", "assets:bank:checking")
    assert {row["currency"]: row["balance_minor"] for row in balances} == {"EUR": 4543_95, "MILES": 1200}


def test_trouble_with_the_content_is_told_with_its_line(ledger: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "small.beancount"
    accounts = "2024-01-01 open Assets:Cash\n2024-01-01 open Income:Gift\n2024-01-01 open Expenses:Leave\n"
    text = '2024-02-01 * "Gift"\n  id: "g1"\n  Assets:Cash  {0} EUR\n  Income:Gift\n'
    leave = '2024-03-01 * "Leave"\n  Expenses:Leave  {0} HOURS\n  Assets:Cash  -{0} HOURS\n'
    command = ("import", "beancount", str(path), "--key-metadata", "id")

    path.write_text(accounts + text.format("5.00") + leave.format(8))
    assert _counts(run_json(ledger, *command)) == (2, 0, 0, 0)

    path.write_text(accounts + text.format("6.00") + leave.format(8))
    changed = run_json(ledger, *command, code=1)
    assert _counts(changed) == (0, 1, 1, 0)
    assert changed["unposted"][0]["fate"] == "conflict"
    assert changed["unposted"][0]["place"] == f"{path}:4"
    assert {row["account"] for row in changed["differences"]} == {"assets:Cash", "income:Gift"}

    path.write_text(accounts + leave.format("7.5"))
    refused = run(ledger, *command, code=1)
    assert "The unit HOURS is registered with 0 decimals, but" in " ".join(refused.stderr.split())
    with connect(ledger["LEDGERLINE_POSTGRES_DSN"], "ledgerline_operator") as connection:
        assert [(unit.code, unit.exponent) for unit in list_units(connection, "default")] == [("HOURS", 0)]


def test_a_rejected_intent_is_told_with_its_line_and_reason(ledger: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Date,From,To,Amount\n2024-01-01,users:1:wallet,users:2:wallet,5.00\n")
    (tmp_path / "a.toml").write_text(
        '[date]\ncolumn = "Date"\n[amount]\ncolumn = "Amount"\n[currency]\ncode = "EUR"\n'
        '[accounts]\naccount = "{From}"\ncounter_account = "{To}"\n'
    )
    command = ("import", "csv", str(tmp_path / "a.csv"), "--mapping", str(tmp_path / "a.toml"))
    report = run_json(ledger, *command, code=1)
    assert report["rejected"] == 1
    (unposted,) = report["unposted"]
    assert unposted["place"] == f"{tmp_path / 'a.csv'}:2"
    assert unposted["reason"] == "insufficient_funds"


def test_without_an_api_nothing_is_posted_and_the_reason_is_one_sentence(settings: Settings, tmp_path: Path) -> None:
    variables = environment(settings)
    command = (
        "import",
        "csv",
        str(EXAMPLES / "bank-statement.csv"),
        "--mapping",
        str(EXAMPLES / "bank-statement.toml"),
    )
    assert "No API is known: set LEDGERLINE_API_URL" in run(variables, *command, code=1).stderr
    dry = run_json(variables, *command, "--dry-run", code=1)
    assert len(dry["intents"]) == 6
    assert dry["units"] == {"MILES": 0}
    preview = run_json(variables, *command, "--preview", code=1)
    assert len(preview["rows"]) == 6
    assert [refused["line"] for refused in preview["refused"]] == [10]
    assert "equity:opening-balances" in run(variables, *command, "--preview", code=1).stdout


def test_intents_of_a_file_are_posted_and_what_is_not_is_told_with_its_line(
    ledger: dict[str, str], api: ApiBench, tmp_path: Path
) -> None:
    def line(key: str, debit: str, credit: str) -> str:
        legs = [
            {"account": debit, "direction": "debit", "amount_minor": 5, "currency": "EUR"},
            {"account": credit, "direction": "credit", "amount_minor": 5, "currency": "EUR"},
        ]
        return json.dumps({"idempotency_key": key, "type": "transfer", "legs": legs})

    path = tmp_path / "intents.ndjson"
    top_up = line("a", "external:bank", "users:1:wallet")
    broke = line("b", "users:2:wallet", "users:1:wallet")
    path.write_text("\n".join([top_up, "", "no JSON", broke]))
    with_key = {**ledger, "LEDGERLINE_API_KEY": api.new_key()}
    report = run_json(with_key, "intents", "import", str(path), code=1)
    assert report["counts"] == {"posted": 1, "refused": 1, "rejected": 1}
    assert [(item["line"], item["fate"], item["reason"]) for item in report["not_posted"]] == [
        (3, "refused", "invalid-json"),
        (4, "rejected", "insufficient_funds"),
    ]
    path.write_text(top_up)
    assert run_json(with_key, "intents", "import", str(path))["counts"] == {"posted before": 1}
