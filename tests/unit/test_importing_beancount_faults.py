"""Beancount ledgers that are wrong or unusual. Each test's docstring holds a sentence, a blank line and the ledger."""

import inspect
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from domain.intents import CREDIT, DEBIT, Leg
from producers.importing.addresses import make_beancount_address, make_unit_code
from producers.importing.beancount_source import read_ledger
from producers.importing.checks import Movement, find_differing_sums, find_failed_assertions
from producers.importing.importer import Prepared, prepare, refuse_faulty
from producers.importing.minor import compute_sums
from producers.importing.model import ImportingError, format_plain_decimal

ACCOUNTS = """\
2020-01-01 open Assets:Cash
2020-01-01 open Assets:Broker
2020-01-01 open Expenses:Food
2020-01-01 open Income:Gains
"""
Read = Callable[..., Prepared]


@pytest.fixture
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """Return a function that reads the ledger in the test's docstring."""
    document = inspect.cleandoc(request.function.__doc__).partition("\n\n")[2]

    def run(text: str = document, tickers: tuple[str, ...] = (), **options: Any) -> Prepared:
        (tmp_path / "book.beancount").write_text(ACCOUNTS + dedent(text))
        source = read_ledger(tmp_path / "book.beancount", tickers=tickers)
        return prepare(source, options.pop("registered", {}), options.pop("wanted", {}), **options)

    return run


def agrees(prepared: Prepared) -> bool:
    """Return whether posting these intents gives beancount's own sums and meets its assertions."""
    movements = [
        Movement(leg.account, leg.currency, leg.direction * leg.amount_minor, intent.value_time)
        for intent in prepared.mapped.intents
        for leg in intent.legs
    ]
    source, exponents, rounded = prepared.source, prepared.plan.exponents, prepared.mapped.rounded
    differences = find_differing_sums(source.sums, movements, exponents, rounded)
    return not differences and not find_failed_assertions(source.assertions, movements, exponents, rounded)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (None, "Error importing \"a_plugin\": No module named 'a_plugin'"),
        ("raise RuntimeError('no such rate')", "A plugin stopped beancount: no such rate"),
        ("raise SystemExit(3)", "A plugin stopped beancount: 3"),
        (
            "__plugins__ = ['f']\ndef f(entries, options):\n    raise ValueError('no such\\nrate')",
            'Error applying plugin "a_plugin": no such rate',
        ),
    ],
)
def test_after_a_plugin_that_failed_nothing_is_posted(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, sentence: str
) -> None:
    """Without a plugin that halves amounts, for example, the balance would be doubled.

    plugin "a_plugin"
    2024-01-02 * "Lunch"
      Expenses:Food   3.50 EUR
      Assets:Cash
    """
    if module is not None:
        (tmp_path / "a_plugin.py").write_text(module)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    prepared = read()
    with pytest.raises(ImportingError) as refused:
        refuse_faulty(prepared.source)
    assert str(refused.value) == f"Nothing is posted. Beancount refuses this: {sentence}"


def test_a_file_that_an_include_does_not_find_posts_nothing(read: Read) -> None:
    """Without the included file a part of the money would be missing.

    include "other.beancount"
    2024-01-02 * "Lunch"
      Expenses:Food   3.50 EUR
      Assets:Cash
    """
    with pytest.raises(ImportingError, match=r"Nothing is posted\. .*other.beancount"):
        refuse_faulty(read().source)


def test_a_plugin_that_prints_does_not_disturb(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin must not print among the records, which the reader writes to standard output.

    plugin "a_plugin"
    2024-01-02 * "Lunch"
      Expenses:Food   3.50 EUR
      Assets:Cash
    """
    (tmp_path / "a_plugin.py").write_text(
        "__plugins__ = ['f']\ndef f(entries, options):\n    print('hello')\n    return entries, []"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    prepared = read()
    refuse_faulty(prepared.source)
    assert len(prepared.mapped.intents) == 1


def test_a_posting_without_a_currency_is_listed_and_the_rest_is_read(read: Read) -> None:
    """The currency of the first transaction cannot be inferred, because no posting names one.

    2024-01-02 * "Nothing says of what"
      Expenses:Food   3.50
      Assets:Cash
    2024-01-03 * "The other posting says it"
      Expenses:Food   3.50
      Assets:Cash    -3.50 EUR
    """
    prepared = read()
    assert len(prepared.mapped.intents) == 1
    assert {problem.place.line for problem in prepared.problems} == {6}


def test_a_plugin_that_breaks_a_posting_is_one_sentence_and_posts_nothing(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin may pass on a value that beancount's parser never makes, and beancount's own checks fail on it.

    plugin "a_plugin"
    2024-01-02 * "Lunch"
      Expenses:Food   3.50 EUR
      Assets:Cash
    2024-01-03 * "Dinner"
      Expenses:Food   5.50 EUR
      Assets:Cash
    """
    (tmp_path / "a_plugin.py").write_text(
        "from beancount.core import amount, number\n"
        "__plugins__ = ['f']\n"
        "def f(entries, options):\n"
        "    for entry in entries:\n"
        "        if getattr(entry, 'narration', '') == 'Lunch':\n"
        "            units = amount.Amount(entry.postings[0].units.number, number.MISSING)\n"
        "            entry.postings[0] = entry.postings[0]._replace(units=units)\n"
        "    return entries, []\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportingError, match=r"Nothing is posted\. .*A plugin stopped beancount: "):
        refuse_faulty(read().source)


def test_an_interpolated_amount_is_rounded_and_told(read: Read) -> None:
    """Beancount accepts this ledger: it computes the cash with five decimals.

    2024-01-02 * "Buy"
      Assets:Broker   10.932 HOOL {43.91 USD}
      Assets:Cash
    2024-01-03 balance Assets:Cash  -480.02412 USD
    """
    prepared = read()
    assert not prepared.problems
    assert compute_sums(prepared.mapped.intents)["assets:Cash", "USD"] == -480_02
    assert prepared.mapped.rounded == {("assets:Cash", "USD"): Decimal("0.00412")}
    assert agrees(prepared)


@pytest.mark.parametrize(
    ("commodity", "code"),
    [
        ("HOOL", "HOOL"),
        ("BRK.B", "BRK.B"),
        ("A_B", "A_B"),
        ("HOOL'A", "HOOL_27_A"),
        ("/ESM24", "X__2F_ESM24"),
        ("A_27_B", "A_5F_27_5F_B"),
        ("X_ALL", "X_5F_ALL"),
    ],
)
def test_units_of_commodities(commodity: str, code: str) -> None:
    assert make_unit_code(commodity) == code


def test_no_two_commodities_share_a_unit() -> None:
    names = ["A'B", "A_27_B", "A_5F_27_5F_B", "/A", "X_/A", "X__2F_A", "X_A", "X_5F_A", "X", "A", "A.B", "A-B", "A_B"]
    codes = [make_unit_code(name) for name in names] + [make_unit_code("A", is_ticker=True)]
    assert len(set(codes)) == len(codes)


def test_commodities_that_are_no_codes_of_ours_are_booked(read: Read) -> None:
    """Beancount accepts both commodities.

    2024-01-02 * "Buy"
      Assets:Broker   2 HOOL'A {10.00 USD}
      Assets:Broker   1 /ESM24 {5.00 USD}
      Assets:Cash   -25.00 USD
    """
    prepared = read()
    assert not prepared.problems
    assert prepared.plan.unregistered == {"HOOL_27_A": 0, "X__2F_ESM24": 0}
    assert Leg("clearing:exchange:HOOL_27_A", CREDIT, 2, "HOOL_27_A") in prepared.mapped.intents[0].legs
    assert agrees(prepared)


def test_a_ticker_that_equals_an_iso_code_is_a_unit(read: Read) -> None:
    """ALL is the ticker of Allstate here and the Albanian lek in ISO 4217. USD is money.

    2024-01-02 * "Buy"
      Assets:Broker   10.932 ALL {43.91 USD}
      Assets:Cash
    2024-01-03 * "Gold"
      Assets:Broker   0.5 XAU @ 2000.00 USD
      Assets:Cash   -1000.00 USD
    """
    prepared = read()
    assert not prepared.problems
    assert prepared.plan.unregistered == {"X_ALL": 3, "X_XAU": 1}
    assert "ALL is an ISO 4217 code, but the file never uses it as money" in prepared.source.notes[0]
    assert prepared.source.notes[1] == (
        'XAU stands for "Gold" in ISO 4217, which gives it no minor unit: use a unit of your own, such as X_XAU.'
        " So it is booked as X_XAU."
    )
    assert agrees(prepared)


def test_a_commodity_can_be_told_to_be_a_ticker(read: Read) -> None:
    """Without a cost the importer cannot tell a ticker from a currency.

    2024-01-02 * "A gift of shares"
      Assets:Broker   10.932 ALL
      Income:Gains   -10.932 ALL
    2024-01-03 * "Travel money"
      Assets:Cash   100 CHF {0.93 EUR}
      Assets:Cash   -93.00 EUR
    2024-01-04 * "Spent"
      Expenses:Food   100 CHF
      Assets:Cash    -100 CHF {0.93 EUR}
      Income:Gains   93.00 EUR
      Income:Gains  -100 CHF
    """
    assert "cannot be booked" in read().problems[0].sentence
    prepared = read(tickers=("ALL",))
    assert prepared.plan.unregistered == {"X_ALL": 3}
    assert prepared.plan.exponents["CHF"] == 2


def test_18_decimals_are_cut_to_what_fits_or_told_how_to(read: Read) -> None:
    """15.5 ETH with 18 decimals exceeds 64 bits.

    2024-01-02 * "Stake"
      Assets:Broker   15.500000000000000000 ETH
      Income:Gains   -15.500000000000000000 ETH
    """
    assert read().plan.exponents["ETH"] == 13
    assert not read().problems


def test_amounts_that_cannot_fit_are_listed_and_fit_with_round(read: Read) -> None:
    """The amounts use all 18 decimals.

    2024-01-02 * "Stake"
      Assets:Broker   15.500000000000000001 ETH
      Income:Gains   -15.500000000000000001 ETH
    """
    (problem,) = read().problems
    assert "is used with 18 decimals and amounts up to 15.500000000000000001: at most 16" in problem.sentence
    assert "--round books it rounded" in problem.sentence
    assert read(round_written=True).plan.exponents["ETH"] == 13
    prepared = read(wanted={"ETH": 9}, round_written=True)
    assert prepared.mapped.intents[0].legs[0] == Leg("assets:Broker", DEBIT, 15_500_000_000, "ETH")
    assert agrees(prepared)


@pytest.mark.parametrize("is_rounded", [False, True])
def test_a_unit_is_not_registered_with_decimals_that_its_amounts_leave_no_room_for(
    read: Read, is_rounded: bool
) -> None:
    """An exponent never changes, so a unit that fits no amount of the file would be useless forever.

    2024-01-02 * "Stake"
      Assets:Broker   15.5 ETH
      Income:Gains   -15.5 ETH
    """
    with pytest.raises(ImportingError, match=r"The unit ETH cannot be registered so\. .* at most 9\.22.* ETH"):
        read(wanted={"ETH": 18}, round_written=is_rounded)
    with pytest.raises(ImportingError, match=r"ETH is asked for with 19 decimals; the most is 18\."):
        read(wanted={"ETH": 19}, round_written=is_rounded)
    assert read(wanted={"ETH": 17}, round_written=is_rounded).plan.unregistered == {"ETH": 17}


@pytest.mark.parametrize("is_rounded", [False, True])
def test_a_unit_whose_amounts_no_exponent_carries_is_not_registered(read: Read, is_rounded: bool) -> None:
    """The amounts have twenty digits before or after the decimal point.

    2024-01-02 * "Too much"
      Assets:Broker   12345678901234567890 SHIB
      Income:Gains   -12345678901234567890 SHIB
    2024-01-03 * "Too fine"
      Assets:Broker   0.12345678901234567890 DUST
      Income:Gains   -0.12345678901234567890 DUST
    """
    prepared = read(round_written=is_rounded)
    assert "SHIB" not in prepared.plan.unregistered
    assert "64 bits do not hold them with any decimals" in prepared.problems[0].sentence
    assert ("DUST" in prepared.plan.unregistered) == is_rounded
    assert len(prepared.problems) == 2 - is_rounded


def test_round_works_for_registered_units(read: Read) -> None:
    """HOURS is registered with 0 decimals.

    2024-01-02 * "Leave"
      Assets:Cash     7.25 HOURS
      Income:Gains   -7.25 HOURS
    """
    with pytest.raises(ImportingError, match=r"HOURS is registered with 0 decimals, but .* uses 2: .* by --round"):
        read(registered={"HOURS": 0})
    prepared = read(registered={"HOURS": 0}, round_written=True)
    assert prepared.mapped.intents[0].legs[0].amount_minor == 7
    assert prepared.mapped.rounded["assets:Cash", "HOURS"] == Decimal("-0.25")
    assert agrees(prepared)


@pytest.mark.parametrize(
    ("number", "text"), [("0E-18", "0"), ("-0.00", "0"), ("12.50", "12.5"), ("1E+3", "1000"), ("100", "100")]
)
def test_reports_show_decimals_as_people_write_them(number: str, text: str) -> None:
    assert format_plain_decimal(Decimal(number)) == text


def test_the_same_text_in_nfc_and_nfd_is_one_account(read: Read) -> None:
    """One account name is written in two Unicode normal forms.

    2020-01-01 open Expenses:Caf\u00e9
    2020-01-01 open Expenses:Cafe\u0301
    2024-01-02 * "Lunch"
      Expenses:Caf\u00e9   3.50 EUR
      Assets:Cash
    2024-01-03 * "Dinner"
      Expenses:Cafe\u0301   5.50 EUR
      Assets:Cash
    """
    roots = {"Expenses": "expenses"}
    assert make_beancount_address("Expenses:Caf\u00e9", roots) == make_beancount_address("Expenses:Cafe\u0301", roots)
    prepared = read()
    assert compute_sums(prepared.mapped.intents)["expenses:Caf_e9_", "EUR"] == 9_00
    assert agrees(prepared)


def keys_of(prepared: Prepared) -> list[str]:
    """Return the keys in the order of the file."""
    return [intent.idempotency_key for intent in prepared.mapped.intents]


def test_neither_the_files_name_nor_the_flag_nor_the_order_moves_a_key(read: Read, tmp_path: Path) -> None:
    """Of four lunches two have tags of their own, two are equal, and the flag of the first changes.

    2024-01-02 ! "Lunch" #work
      Expenses:Food   3.50 EUR
      Assets:Cash
    2024-01-02 * "Lunch" #home
      Expenses:Food   3.50 EUR
      Assets:Cash
    2024-01-02 * "Lunch"
      Expenses:Food   3.50 EUR
      Assets:Cash
    2024-01-02 * "Lunch"
      Expenses:Food   3.50 EUR
      Assets:Cash
    """
    text = inspect.cleandoc(test_neither_the_files_name_nor_the_flag_nor_the_order_moves_a_key.__doc__ or "").partition(
        "\n\n"
    )[2]
    before = {intent.idempotency_key: intent.item() for intent in read().mapped.intents}
    assert len(before) == 4
    lines = text.splitlines()
    blocks = ["\n".join(lines[start : start + 3]) for start in range(0, len(lines), 3)]
    (tmp_path / "renamed.beancount").write_text(ACCOUNTS + "\n".join(reversed(blocks)).replace("!", "*"))
    after = prepare(read_ledger(tmp_path / "renamed.beancount"), {})
    assert {intent.idempotency_key: intent.item() for intent in after.mapped.intents} == before
