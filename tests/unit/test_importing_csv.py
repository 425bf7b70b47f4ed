"""CSV files as intents: tables of cells, and the example in docs/IMPORT.md."""

from pathlib import Path
from typing import Any

import pytest

from domain.intents import CREDIT, DEBIT, Leg
from producers.importing.csv_mapping import read_mapping
from producers.importing.csv_source import read_ledger
from producers.importing.minor import MappedLedger, map_drafts
from producers.importing.model import ImportingError, SourceLedger
from producers.importing.units import plan_units
from runtime.settings import REPOSITORY_ROOT

EXAMPLES = REPOSITORY_ROOT / "examples"

MAPPING = """\
reference = "{Text}"
[date]
column = "Date"
[amount]
column = "Amount"
[currency]
code = "EUR"
[accounts]
account = "assets:bank"
counter_account = "expenses:{Category}"
"""
HEADER = "Date,Text,Category,Amount\n"


@pytest.fixture
def imported(tmp_path: Path):
    """Return a function that reads rows by a mapping and returns the source and its mapped intents."""

    def run(rows: str, mapping: str = MAPPING, header: str = HEADER) -> tuple[SourceLedger, MappedLedger]:
        (tmp_path / "book.csv").write_text(header + rows)
        (tmp_path / "mapping.toml").write_text(mapping)
        found = read_mapping(tmp_path / "mapping.toml")
        ledger = read_ledger(tmp_path / "book.csv", found)
        return ledger, map_drafts(ledger.drafts, plan_units(ledger.drafts, {}, found.units))

    return run


def test_the_example_maps_as_the_documentation_says() -> None:
    mapping = read_mapping(EXAMPLES / "bank-statement.toml")
    ledger = read_ledger(EXAMPLES / "bank-statement.csv", mapping)
    plan = plan_units(ledger.drafts, {}, mapping.units)
    mapped = map_drafts(ledger.drafts, plan)
    bank = "assets:bank:checking"
    assert [intent.legs for intent in mapped.intents] == [
        (Leg(bank, DEBIT, 2500_00, "EUR"), Leg("equity:opening-balances", CREDIT, 2500_00, "EUR")),
        (Leg(bank, CREDIT, 1250_00, "EUR"), Leg("expenses:Rent", DEBIT, 1250_00, "EUR")),
        (Leg(bank, CREDIT, 8_40, "EUR"), Leg("expenses:food", DEBIT, 8_40, "EUR")),
        (Leg(bank, CREDIT, 8_40, "EUR"), Leg("expenses:food", DEBIT, 8_40, "EUR")),
        (Leg(bank, DEBIT, 1200, "MILES"), Leg("income:points", CREDIT, 1200, "MILES")),
        (Leg(bank, DEBIT, 3310_75, "EUR"), Leg("income:salary", CREDIT, 3310_75, "EUR")),
    ]
    assert plan.unregistered == {"MILES": 0}
    assert ledger.without_money == {"blank line": 1, "row of zero": 1}
    assert [(problem.place.line, problem.sentence) for problem in ledger.problems] == [
        (10, "No rule of the mapping matches, and it has no counter_account for the rest.")
    ]
    assert mapped.intents[2].reference == "Corner Café: Breakfast"
    assert mapped.intents[2].metadata == {"bank_reference": "BX-1002", "payee": "Corner Café"}
    assert len({intent.idempotency_key for intent in mapped.intents}) == 6


@pytest.mark.parametrize(
    ("text", "style", "minor"),
    [
        ("12.50", "", 1250),
        ("-12.5", "", -1250),
        ("+7", "", 700),
        (".5", "", 50),
        ('"1,234,567.89"', "", 1_234_567_89),
        ('"1.234,56"', 'decimal = ","\ngrouping = "."', 1_234_56),
        ("1 234.56", 'grouping = " "', 1_234_56),
        ("(3.00)", "parentheses_negative = true", -300),
        ("\u22122.00", "", -200),
        ("12.50", 'sign = "positive_is_out"', -1250),
        ('"1,23"', "", "is no decimal"),
        ('"1,2345.00"', "", "is no decimal"),
        ("(3.00)", "", "is no decimal"),
        ("12.50 EUR", "", 1250),
        ("eur 12.50", "", 1250),
        ("\u20ac-12.50", "", -1250),
        ("12.50 USD", "", "The amount is in USD, but the row is in EUR."),
        ("$12.50", "", "The sign '$' may stand for several currencies"),
        ("50.00-", "", -5000),
        ("- 50", "", -5000),
        ("50.00 DR", "", -5000),
        ("50.00Cr", "", 5000),
        ("-50.00 DR", "", "is no decimal"),
        ("--50", "", "is no decimal"),
        ("1\u2019234.50", 'grouping = "\'"', 1_234_50),
        ("1\u202f234.50", 'grouping = " "', 1_234_50),
        ('"12,34,567.00"', "", 12_34_567_00),
        ("١٢", "", "is no decimal"),
        ("1e3", "", "is no decimal"),
        ("NaN", "", "is no decimal"),
        ("", "", "is no decimal"),
        ("-", "", "is no decimal"),
        ("12.345", "", "more than 2 decimal places"),
        (f"1.{'0' * 40}1", "", "more than 2 decimal places"),
        (f"1.{'0' * 300}", "", "more than 200 digits"),
        ("92233720368547758.08", "", "does not fit in 64 bits"),
    ],
)
def test_amounts(imported, text: str, style: str, minor: int | str) -> None:
    ledger, mapped = imported(
        f"2024-05-01,x,Food,{text}\n", MAPPING.replace('column = "Amount"', f'column = "Amount"\n{style}')
    )
    if isinstance(minor, str):
        (problem,) = ledger.problems + mapped.problems
        assert minor in problem.sentence
        assert problem.place.line == 2
    else:
        leg = mapped.intents[0].legs[0]
        assert leg.direction * leg.amount_minor == minor


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("01.05.2024,x,Food,1", "The date '01.05.2024' is not written as %Y-%m-%d."),
        ("2024-05-01,x,,1", "The column 'Category' is empty: an account needs it."),
        ("2024-05-01,x,Food & Drink,1", "The account 'expenses:Food & Drink' is no address"),
        ("2024-05-01,x,Food", "The row has 3 cells where the header has 4."),
        ("1850-05-01,x,Food,1", "Its date lies outside the years 1900 to 2199."),
    ],
)
def test_what_cannot_be_mapped_is_listed_with_its_line(imported, row: str, sentence: str) -> None:
    ledger, mapped = imported(f'2024-05-01,"two\nlines",Food,1\n{row}\n2024-05-01,y,Food,2\n')
    (problem,) = ledger.problems + mapped.problems
    assert problem.sentence.startswith(sentence)
    assert problem.place.line == 4
    assert len(mapped.intents) == 2


def test_money_in_and_out_in_two_columns(imported) -> None:
    mapping = MAPPING.replace('column = "Amount"', 'in_column = "In"\nout_column = "Out"')
    amounts = ("1.00,", ",2.00", "1,1", ",", "-1,")
    rows = [f"2024-05-01,row {number},Food,{text}\n" for number, text in enumerate(amounts)]
    ledger, mapped = imported("".join(rows), mapping, "Date,Text,Category,In,Out\n")
    assert [intent.legs[0].direction * intent.legs[0].amount_minor for intent in mapped.intents] == [100, -200]
    assert [problem.place.line for problem in ledger.problems] == [4, 5, 6]


def test_equal_rows_get_keys_of_their_own_that_other_rows_and_the_mapping_do_not_move(imported) -> None:
    coffee, tea = "2024-05-01,coffee,Food,-3.50\n", "2024-05-01,tea,Food,-2.50\n"
    keys = [intent.idempotency_key for intent in imported(coffee * 2)[1].intents]
    assert len(set(keys)) == 2
    after = {intent.idempotency_key for intent in imported(tea + coffee + tea + coffee * 2)[1].intents}
    assert set(keys) <= after
    assert len(after) == 5
    moved = imported(coffee * 2, MAPPING.replace("expenses:", "expenses:home:"))[1]
    assert [intent.idempotency_key for intent in moved.intents] == keys


def test_a_key_column_that_repeats_is_listed(imported) -> None:
    ledger, mapped = imported("2024-05-01,a,Food,1\n2024-05-02,a,Food,2\n", MAPPING + '[key]\ncolumns = ["Text"]\n')
    assert len(mapped.intents) == 1
    assert ledger.problems[0].sentence == "An earlier row has the same Text: each row needs its own."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("[date]", "[dates]"), r"wrong at date: it is missing"),
        (('code = "EUR"', ""), "wrong at currency: .*give either `code` or `column`"),
        (('column = "Amount"', 'column = "Amount"\ndecimal = ","'), "`decimal` and `grouping` must differ"),
        (('column = "Amount"', 'column = "Sum"'), "has no column 'Sum'; it has 'Date', 'Text', 'Category', 'Amount'"),
        (("{Category}", "{Kind}"), "has no column 'Kind'"),
        (("{Category}", "{}"), "a template holds {Column} names only"),
        (("[date]", "[date"), "is no TOML"),
    ],
)
def test_a_wrong_mapping_is_one_sentence(imported, change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(ImportingError, match=sentence):
        imported("2024-05-01,a,Food,1\n", MAPPING.replace(*change))


def test_a_mapping_may_be_yaml(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "date: {column: Date}\namount: {column: Amount}\ncurrency: {code: EUR}\naccounts: {account: 'assets:{Bank}'}\n"
    )
    mapping = read_mapping(tmp_path / "m.yaml")
    assert mapping.columns() == {"Date", "Amount", "Bank"}
    (tmp_path / "m.yml").write_text("date: [\n")
    with pytest.raises(ImportingError, match="is no YAML"):
        read_mapping(tmp_path / "m.yml")
    with pytest.raises(ImportingError, match=r"must be a \.toml"):
        read_mapping(EXAMPLES / "bank-statement.csv")


def test_a_file_in_another_encoding_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "book.csv").write_bytes(HEADER.encode() + "2024-05-01,Caf\xe9,Food,1\n".encode("latin-1"))
    (tmp_path / "mapping.toml").write_text(MAPPING)
    mapping = read_mapping(tmp_path / "mapping.toml")
    with pytest.raises(ImportingError, match="cannot be read as utf-8-sig"):
        read_ledger(tmp_path / "book.csv", mapping)


def test_gold_is_refused_for_what_it_is(imported: Any) -> None:
    _, mapped = imported("2024-01-02,Coin,gold,1.5\n", MAPPING.replace('"EUR"', '"XAU"'))
    (problem,) = mapped.problems
    assert problem.sentence.startswith(
        'The commodity XAU stands for "Gold" in ISO 4217, which gives it no minor unit: use a unit of your own'
    )
