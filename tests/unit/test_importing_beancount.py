"""Beancount ledgers as intents: small ledgers as text, then the whole of bean-example."""

import json
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import pytest

from domain.chart import DEFAULT_CHART, Chart
from domain.intents import CREDIT, DEBIT, Intent, Leg, compute_intent_id
from domain.money import to_minor
from domain.screening import refuse_by_books, refuse_shape
from producers.importing.addresses import AddressError, escape_segment, exchange_account, make_beancount_address
from producers.importing.beancount_source import read_ledger
from producers.importing.minor import MappedLedger, compute_sums, map_drafts
from producers.importing.model import ImportingError, SourceLedger, start_of_day
from producers.importing.units import plan_units

ROOTS = {name.capitalize(): name for name in ("assets", "liabilities", "equity", "income", "expenses")}

ACCOUNTS = """\
2020-01-01 open Assets:Cash
2020-01-01 open Assets:Broker
2020-01-01 open Expenses:Food
2020-01-01 open Income:Gains
2020-01-01 open Equity:Opening-Balances
"""


@pytest.fixture
def imported(tmp_path: Path):
    """Return a function that reads a ledger's text, with accounts opened, and returns the source and its mapping."""

    def run(
        text: str,
        *,
        registered: dict[str, int] | None = None,
        round_written: bool = False,
        key_metadata: str | None = None,
    ) -> tuple[SourceLedger, MappedLedger]:
        path = tmp_path / "book.beancount"
        path.write_text(ACCOUNTS + dedent(text))
        ledger = read_ledger(path, "book", key_metadata)
        return ledger, map_drafts(
            ledger.drafts, plan_units(ledger.drafts, registered or {}), round_written=round_written
        )

    return run


def test_a_payment_is_two_legs(imported) -> None:
    ledger, mapped = imported("""
        2024-02-03 * "Bakery" "Bread" #home ^inv-1
          receipt: "no. 7"
          Expenses:Food   3.50 EUR
          Assets:Cash
        """)
    (intent,) = mapped.intents
    assert intent.legs == (Leg("expenses:Food", DEBIT, 350, "EUR"), Leg("assets:Cash", CREDIT, 350, "EUR"))
    assert intent.reference == "Bread"
    assert intent.metadata == {
        "payee": "Bakery", "tags": "home", "links": "inv-1", "meta.receipt": "no. 7",
    }  # fmt: skip
    assert intent.item()["value_time"] == "2024-02-03T00:00:00Z"
    assert intent.place.line == 7
    assert not ledger.problems
    assert not mapped.problems
    assert ledger.without_money == {"open": 5}


def test_a_purchase_and_a_sale_at_cost_go_through_the_clearing_account(imported) -> None:
    _, mapped = imported("""
        2024-01-02 * "Buy"
          Assets:Broker   10.5 VBX {10.01 USD}
          Assets:Cash  -105.10 USD
        2024-03-02 * "Sell"
          Assets:Broker  -4.2 VBX {10.01 USD} @ 12.00 USD
          Assets:Cash    50.40 USD
          Income:Gains   -8.36 USD
        """)
    buy, sell = mapped.intents
    clearing = "clearing:exchange:VBX"
    assert buy.legs == (
        Leg("assets:Broker", DEBIT, 105, "VBX"),
        Leg(clearing, CREDIT, 105, "VBX"),
        Leg(clearing, DEBIT, 105_10, "USD"),  # 105.105 is rounded half to even
        Leg("assets:Cash", CREDIT, 105_10, "USD"),
    )
    assert sell.legs[:3] == (
        Leg("assets:Broker", CREDIT, 42, "VBX"),
        Leg(clearing, DEBIT, 42, "VBX"),
        Leg(clearing, CREDIT, 42_04, "USD"),
    )
    assert sell.metadata["lot.1"] == "-4.2 VBX {10.01 USD, 2024-01-02} @ 12.00 USD"


def test_a_price_is_an_exchange_too(imported) -> None:
    _, mapped = imported("""
        2024-01-02 * "Travel money"
          Assets:Cash   100.00 CHF @ 1.05 EUR
          Assets:Broker  -105.00 EUR
        """)
    assert mapped.intents[0].legs == (
        Leg("assets:Cash", DEBIT, 100_00, "CHF"),
        Leg("clearing:exchange:CHF", CREDIT, 100_00, "CHF"),
        Leg("clearing:exchange:CHF", DEBIT, 105_00, "EUR"),
        Leg("assets:Broker", CREDIT, 105_00, "EUR"),
    )


def test_what_beancounts_tolerance_leaves_is_booked_to_the_rounding_account(imported) -> None:
    """7 shares at 14.2901 weigh 100.0307. Beancount accepts a payment of 100.0, because it has one decimal place."""
    _, mapped = imported("""
        2024-01-02 * "Buy"
          Assets:Broker   7 VBX {14.2901 USD}
          Assets:Cash  -100.0 USD
        """)
    (intent,) = mapped.intents
    assert intent.legs[-1] == Leg("equity:rounding", CREDIT, 3, "USD")
    assert compute_sums(mapped.intents)["assets:Cash", "USD"] == -100_00


def test_an_amount_finer_than_its_currency_is_listed_or_rounded_on_request(imported) -> None:
    text = """
        2024-01-02 * "Fuel"
          Expenses:Food    12.345 EUR
          Assets:Cash     -12.345 EUR
        """
    _, mapped = imported(text)
    assert not mapped.intents
    assert "12.345 EUR in expenses:Food" in mapped.problems[0].sentence
    assert "2 decimal places" in mapped.problems[0].sentence
    _, mapped = imported(text, round_written=True)
    assert [leg.amount_minor for leg in mapped.intents[0].legs] == [1234, 1234]
    assert mapped.rounded["expenses:Food", "EUR"] == Decimal("-0.005")


def test_units_get_the_decimals_they_are_written_with_and_never_fewer_later(imported) -> None:
    text = """
        2024-01-02 * "Leave"
          Assets:Cash     8.00 VACHR
          Income:Gains   -8.00 VACHR
        2024-01-03 * "Leave"
          Assets:Cash     0.5 VACHR
          Income:Gains   -0.5 VACHR
        """
    ledger, _ = imported(text)
    assert plan_units(ledger.drafts, {}).unregistered == {"VACHR": 2}
    assert plan_units(ledger.drafts, {"VACHR": 4}).unregistered == {}
    assert plan_units(ledger.drafts, {}, {"VACHR": 3}).exponents == {"VACHR": 3}
    with pytest.raises(ImportingError, match=r"VACHR is registered with 0 decimals, but .*book.beancount:10 uses 1"):
        plan_units(ledger.drafts, {"VACHR": 0})


def test_a_commodity_that_is_no_code_is_listed(imported) -> None:
    _, mapped = imported("""
        2024-01-02 * "Future"
          Assets:Cash     1 A234567890123456789012345
          Income:Gains   -1 A234567890123456789012345
        """)
    assert not mapped.intents
    assert "A234567890123456789012345 is no code for a unit" in mapped.problems[0].sentence


def test_what_beancount_refuses_is_listed_with_its_line(imported) -> None:
    ledger, mapped = imported("""
        2024-01-02 * "Unbalanced"
          Assets:Cash     1.00 EUR
          Income:Gains   -2.00 EUR
        2024-01-03 * "Syntax
        """)
    assert not mapped.intents
    assert {problem.place.line for problem in ledger.problems} >= {7}
    assert any("does not balance" in problem.sentence for problem in ledger.problems)
    assert mapped.problems[0].place.line == 7
    assert (
        mapped.problems[0].sentence == "The transaction does not balance: its credits in EUR exceed its debits by 1.00."
    )


def test_equal_transactions_get_keys_of_their_own_that_other_lines_do_not_move(imported) -> None:
    coffee = """
        2024-01-02 * "Coffee"
          Expenses:Food   3.50 EUR
          Assets:Cash
        """
    other = """
        2024-01-01 * "Tea"
          Expenses:Food   2.50 EUR
          Assets:Cash
        """
    _, before = imported(coffee + coffee)
    keys = [intent.idempotency_key for intent in before.intents]
    assert len(set(keys)) == 2
    _, after = imported(other + coffee + other + coffee + coffee)
    kept = [intent for intent in after.intents if intent.idempotency_key in keys]
    assert [(i.idempotency_key, i.legs, i.metadata) for i in kept] == [
        (i.idempotency_key, i.legs, i.metadata) for i in before.intents
    ]
    assert len({intent.idempotency_key for intent in after.intents}) == 5


def test_a_pad_whose_amount_changes_keeps_its_key(imported) -> None:
    """Another key would post the pad twice and move money twice. With the same key the API reports a conflict."""
    text = """
        2024-01-01 pad Assets:Cash Equity:Opening-Balances
        {0}
        2024-02-01 balance Assets:Cash 100.00 EUR
        """
    _, before = imported(text.format(""))
    ledger, after = imported(
        text.format('2024-01-05 * "x"\n          Assets:Cash  1.00 EUR\n          Income:Gains  -1.00 EUR\n')
    )
    assert before.intents[0].idempotency_key == after.intents[0].idempotency_key
    assert [intents.intents[0].legs[0].amount_minor for intents in (before, after)] == [100_00, 99_00]
    assert ledger.assertions[0].amount == Decimal("100.00")
    assert ledger.assertions[0].value_time == start_of_day(date(2024, 2, 1))


def test_the_lot_that_a_sale_is_booked_against_is_no_part_of_its_key(imported) -> None:
    text = """
        2023-01-02 * "Buy"
          Assets:Broker   5 VBX {{{0} USD}}
          Assets:Cash
        2024-01-02 * "Sell"
          Assets:Broker  -5 VBX {{}} @ 12.00 USD
          Assets:Cash    60.00 USD
          Income:Gains
        """
    sales = [imported(text.format(cost))[1].intents[1] for cost in ("10.00", "11.00")]
    assert sales[0].idempotency_key == sales[1].idempotency_key
    assert sales[0].legs != sales[1].legs


def test_metadata_can_name_the_transaction(imported) -> None:
    text = """
        2024-01-02 * "{0}"
          id: "A1"
          Expenses:Food   3.50 EUR
          Assets:Cash
        """
    keys = {
        imported(text.format(name), key_metadata="id")[1].intents[0].idempotency_key for name in ("Lunch", "Dinner")
    }
    assert len(keys) == 1
    ledger, mapped = imported(text.format("Lunch") + text.format("Dinner"), key_metadata="id")
    assert len(mapped.intents) == 1
    assert "An earlier transaction has the same id" in ledger.problems[0].sentence


@pytest.mark.parametrize(
    ("account", "address"),
    [
        ("Assets:US:Bank", "assets:US:Bank"),
        ("Expenses:Café", "expenses:Caf_e9_"),
        ("Income:日本", "income:_65e5__672c_"),
        ("Liabilities:A-1", "liabilities:A-1"),
    ],
)
def test_addresses(account: str, address: str) -> None:
    assert make_beancount_address(account, ROOTS) == address
    assert Chart(DEFAULT_CHART).match(address) is not None


def test_addresses_do_not_collide() -> None:
    names = ["é", "_e9_", "e9", "_", "__", "_5f_", ".", "-"]
    assert len({escape_segment(name) for name in names}) == len(names)
    assert exchange_account("BRK.B") == "clearing:exchange:BRK_2e_B"
    with pytest.raises(AddressError):
        make_beancount_address("Assets:" + "é" * 100, ROOTS)
    with pytest.raises(AddressError):
        make_beancount_address("Other:Cash", ROOTS)


def test_only_the_reader_process_has_beancount_in_it() -> None:
    """Beancount's parser is under the GPL and runs as a separate program, so no process of ours imports it."""
    code = (
        "import sys, producers.importing.beancount_source, cli.commands.importing;"
        "print([name for name in sys.modules if name.startswith('beancount')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImportingError, match="cannot be read: name an existing beancount file"):
        read_ledger(tmp_path / "none.beancount", "none")


def test_a_reader_without_beancount_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['beancount'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "a.beancount").write_text("")
    with pytest.raises(ImportingError, match=r"pip install 'ledgerline\[import\]'"):
        read_ledger(tmp_path / "a.beancount", "a")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return beancount's own example: four years, stocks at cost, vacation hours."""
    path = tmp_path_factory.mktemp("example") / "example.beancount"
    subprocess.run(
        [
            sys.executable, "-c", "from beancount.scripts.example import main; main()", "--seed", "7",
            "--date-begin", "2022-01-01", "--date-end", "2025-12-31", "--date-birth", "1985-05-12", "-o", str(path),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


def test_the_whole_example_balances_and_agrees_with_beancounts_sums(example: Path) -> None:
    ledger = read_ledger(example, "example")
    plan = plan_units(ledger.drafts, {})
    mapped = map_drafts(ledger.drafts, plan)
    assert not ledger.problems
    assert not mapped.problems
    assert len(mapped.intents) > 1100
    assert len({intent.idempotency_key for intent in mapped.intents}) == len(mapped.intents)

    chart = Chart(DEFAULT_CHART)
    for mapped_intent in mapped.intents:
        key = mapped_intent.idempotency_key
        intent = Intent(
            compute_intent_id("default", key), "default", key, "transfer", mapped_intent.legs, None,
            mapped_intent.value_time, mapped_intent.reference, mapped_intent.metadata, 0,
        )  # fmt: skip
        assert refuse_shape(intent) is None
        assert refuse_by_books(intent.legs, chart, plan.exponents) is None

    sums = compute_sums(mapped.intents)
    expected = {(s.account, s.currency): to_minor(s.amount, plan.exponents[s.currency]) for s in ledger.sums}
    ours = {where: amount for where, amount in sums.items() if amount and not where[0].startswith("clearing:exchange:")}
    assert ours == {where: amount for where, amount in expected.items() if amount}
    assert {"VACHR", "VBMPX", "IRAUSD", "GLD", "USD"} <= set(plan.exponents)
    json.dumps([intent.item() for intent in mapped.intents])
