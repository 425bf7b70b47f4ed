"""CSV files of banks: a small sample of each dialect, and the rules for status, fee, balance and group."""

from pathlib import Path
from typing import Any

import pytest

from producers.importing.csv_choice import choose_mapping
from producers.importing.csv_dialects import DIALECTS
from producers.importing.csv_mapping import build_mapping
from producers.importing.csv_source import read_ledger
from producers.importing.csv_values import read_moment
from producers.importing.importer import Prepared, prepare, refuse_faulty
from producers.importing.model import ImportingError, format_rfc3339
from producers.importing.preview import describe

# By dialect: the text of the file, and the bank account's movements in minor units in the order of the file.
SAMPLES: dict[str, tuple[str, list[int]]] = {
    "deutsche-bank": (
        "Umsaetze Girokonto;;;\n\nBuchungstag;Begünstigter / Auftraggeber;Verwendungszweck;Betrag;Währung\n"
        "02.01.2024;Vermieter;Miete;-1.250,00;EUR\n03.01.2024;Firma;Gehalt;3.310,75;EUR\nKontostand;;;2.060,75;EUR\n",
        [-1250_00, 3310_75],
    ),
    "sparkasse-camt": (
        "Valutadatum;Verwendungszweck;Beguenstigter/Zahlungspflichtiger;Betrag;Waehrung;Info\n"
        '"02.01.24";"Bäckerei";"Müller";"-3,50";"EUR";"Umsatz gebucht"\n'
        '"03.01.24";"Tankstelle";"Öl AG";"-50,00";"EUR";"Umsatz vorgemerkt"\n',
        [-3_50],
    ),
    "ing-de": (
        "Umsatzanzeige;Datei erstellt am: 05.01.2024\n\n"
        "Buchung;Auftraggeber/Empfänger;Verwendungszweck;Saldo;Währung;Betrag;Währung\n"
        "03.01.2024;Firma;Lohn;110,00;EUR;100,00;EUR\n02.01.2024;Laden;Kauf;10,00;EUR;-5,00;EUR\n",
        [100_00, -5_00],
    ),
    "n26": (
        "Booking Date,Partner Name,Payment Reference,Amount (EUR)\n2024-01-02,Shop,Order 1,-12.5\n",
        [-12_50],
    ),
    "revolut": (
        "Type,Completed Date,Description,Amount,Fee,Currency,State,Balance\n"
        "CARD,2024-01-02 10:11:12,Cafe,-10.00,0.50,EUR,COMPLETED,89.50\n"
        "CARD,,Hotel,-99.00,0.00,EUR,PENDING,\nTOPUP,2024-01-03 09:00:00,Top-up,20.00,0.00,EUR,COMPLETED,109.50\n",
        [-10_50, 20_00],
    ),
    "wise": (
        "TransferWise ID,Date,Amount,Currency,Description,Running Balance\n"
        "T-2,03-01-2024,-5.00,usd,Lunch,95.00\nT-1,02-01-2024,100.00,usd,Received,100.00\n",
        [-5_00, 100_00],
    ),
    "paypal": (
        "\ufeffDate,Time,Name,Type,Status,Currency,Gross,Fee,Net,Transaction ID\n"
        '01/02/2024,23:30:00,Ada,Sale,Completed,USD,"1,100.00",-3.50,"1,096.50",A1\n'
        "01/03/2024,08:00:00,Bob,Sale,Pending,USD,5.00,0.00,5.00,A2\n",
        [1096_50],
    ),
    "stripe": (
        "id,Type,Amount,Fee,Net,Currency,Created (UTC),Description\n"
        "txn_1,charge,100.00,3.20,96.80,usd,2024-01-02 10:00,Order\n",
        [96_80],
    ),
    "hsbc-uk": ('02/01/2024,TESCO,-20.10\n03/01/2024,SALARY,"1,500.00"\n', [-20_10, 1500_00]),
    "barclays": ("Number,Date,Account,Amount,Subcategory,Memo\n,02/01/2024,20-00,-4.00,PAYMENT,CAFE\n", [-4_00]),
    "chase": (
        "Details,Posting Date,Description,Amount,Type,Balance,Check or Slip #\n"
        "DEBIT,01/03/2024,COFFEE,-4.00,ACH,96.00,,\nCREDIT,01/02/2024,PAY,100.00,ACH,100.00,,\n",
        [-4_00, 100_00],
    ),
    "bank-of-america": (
        "Description,,Summary Amt.\nBeginning balance as of 01/01/2024,,100.00\n\n"
        "Date,Description,Amount,Running Bal.\n01/01/2024,Beginning balance as of 01/01/2024,,100.00\n"
        "01/02/2024,STORE,-25.00,75.00\n",
        [-25_00],
    ),
    "hdfc": (
        "Date,Narration,Chq./Ref.No.,Value Dt,Withdrawal Amt.,Deposit Amt.,Closing Balance\n********,****,,,,,\n"
        '02/01/24,UPI,1,02/01/24,"1,23,456.00",,"10,00,000.00"\n'
        '03/01/24,NEFT,2,03/01/24,0.00,"5,000.50","10,05,000.50"\n********,***,,,,,\nSTATEMENT SUMMARY :-\n1,2,3\n',
        [-1_23_456_00, 5_000_50],
    ),
    "ubs": (
        "Account number:;0234\n\nValue date;Currency;Debit;Credit;Description1\n"
        "2024-01-02;CHF;-1\u2019250.50;;Miete\n2024-01-03;CHF;;3\u2019000.00;Lohn\n",
        [-1250_50, 3000_00],
    ),
    "handelsbanken": (
        "Transaktionsdatum;Text;Belopp;Saldo\n2024-01-02;Hyra;-8\u00a0500,00;1\u00a0500,00\n",
        [-8500_00],
    ),
    "la-banque-postale": (
        "Numéro Compte;1\n\nDate;Libellé;Montant(EUROS)\n02/01/2024;ACHAT;-1\u00a0012,30\n"
        "3 févr. 2024;VIREMENT;50,00\n4 août 2024;VIREMENT;1,00\n",
        [-1012_30, 50_00, 1_00],
    ),
    "bank-of-ceylon": (
        'Date,Description,Amount,Balance\n02-Jan-2024,ATM,"5,000.00 DR","20,000.00 CR"\n'
        'Date,Description,Amount,Balance\n03-Jan-2024,DEPOSIT,"1,000.00 CR","21,000.00 CR"\n',
        [-5000_00, 1000_00],
    ),
}


def test_each_dialect_has_a_sample() -> None:
    assert SAMPLES.keys() == DIALECTS.keys()


def bank_movements(prepared: Prepared) -> list[int]:
    """Return the amounts by which the intents move the bank account, in the order of the file."""
    return [
        leg.direction * leg.amount_minor
        for intent in prepared.mapped.intents
        for leg in intent.legs
        if leg.account == "assets:bank"
    ]


@pytest.mark.parametrize("dialect", sorted(SAMPLES))
def test_a_sample_of_each_bank_is_read_by_its_columns(tmp_path: Path, dialect: str) -> None:
    text, expected = SAMPLES[dialect]
    mapping = build_mapping(
        {"accounts": {"account": "assets:bank", "counter_account": "equity:unsorted"}}, "The mapping", dialect
    )
    path = tmp_path / "export.csv"
    path.write_text(text, encoding=mapping.file.encoding.replace("utf-8-sig", "utf-8"))
    if not mapping.file.header:
        assert choose_mapping(path, None, None, "assets:bank", None).dialect == dialect
    prepared = prepare(read_ledger(path, mapping), {})
    refuse_faulty(prepared.source)
    assert prepared.problems == []
    assert bank_movements(prepared) == expected


BASE: dict[str, Any] = {
    "date": {"column": "Date"},
    "amount": {"column": "Amount"},
    "currency": {"code": "EUR"},
    "accounts": {"account": "assets:bank", "counter_account": "equity:unsorted"},
}


def read(folder: Path, text: str, **members: Any) -> Prepared:
    """Read a file by the base mapping, with the given members changed."""
    (folder / "a.csv").write_text(text)
    return prepare(read_ledger(folder / "a.csv", build_mapping(BASE | members, "The mapping")), {})


def test_a_fee_is_a_third_leg(tmp_path: Path) -> None:
    fee = {"column": "Fee", "account": "expenses:fees"}
    text = "Date,Amount,Fee\n2024-01-02,100.00,3.00\n"
    for amount_is, bank, counter in (("gross", 97_00, -100_00), ("net", 100_00, -103_00)):
        (intent,) = read(tmp_path, text, fee=fee | {"amount_is": amount_is}).mapped.intents
        assert [(leg.account, leg.direction * leg.amount_minor) for leg in intent.legs] == [
            ("assets:bank", bank),
            ("equity:unsorted", counter),
            ("expenses:fees", 3_00),
        ]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (["1.00,11.00", "2.00,13.00", "-3.00,10.00"], None),
        (["-3.00,10.00", "2.00,13.00", "1.00,11.00"], None),
        (["1.00,11.00", "2.00,", "-3.00,10.00"], None),
        (["1.00,11.00", "2.00,14.00", "-3.00,11.00"], 3),
        (["1.00,11.00", "-3.00,9.00"], 3),
    ],
)
def test_a_running_balance_ties_in_either_order_or_nothing_is_posted(
    tmp_path: Path, rows: list[str], line: int | None
) -> None:
    text = "Date,Amount,Balance\n" + "".join(f"2024-01-02,{row}\n" for row in rows)
    prepared = read(tmp_path, text, balance={"column": "Balance"})
    if line is None:
        assert prepared.source.faults == []
    else:
        with pytest.raises(ImportingError, match=rf"\.csv:{line}: The running balance does not tie"):
            refuse_faulty(prepared.source)


def test_grouped_postings_are_one_intent_in_any_order(tmp_path: Path) -> None:
    members = {
        "group": {"columns": ["Id"], "one_leg": True},
        "accounts": {"account": "{Account}"},
    }
    rows = [
        "2024-01-02,1,assets:bank,-10.00\n",
        "2024-01-02,1,expenses:food,7.00\n",
        "2024-01-02,1,expenses:home,3.00\n",
    ]
    header = "Date,Id,Account,Amount\n"
    (intent,) = read(tmp_path, header + "".join(rows), **members).mapped.intents
    assert len(intent.legs) == 3
    (again,) = read(tmp_path, header + "".join(reversed(rows)), **members).mapped.intents
    assert again.item() == intent.item()
    (problem,) = read(tmp_path, header + "".join(rows[:2]), **members).problems
    assert "does not balance" in problem.sentence


def test_a_status_that_nobody_named_is_listed(tmp_path: Path) -> None:
    text = "Date,Amount,State\n2024-01-02,1,booked\n2024-01-02,2,Pending\n2024-01-02,3,odd\n"
    status = {"column": "State", "posted": ["Booked"], "skipped": ["pending"]}
    prepared = read(tmp_path, text, status=status)
    assert len(prepared.mapped.intents) == 1
    assert prepared.source.without_money == {"row that is Pending": 1}
    assert [problem.place.line for problem in prepared.problems] == [4]


def test_an_indicator_says_the_way(tmp_path: Path) -> None:
    text = "Date,Amount,Side\n2024-01-02,1.00,S\n2024-01-02,2.00,H\n2024-01-02,3.00,?\n"
    amount = {"column": "Amount", "indicator_column": "Side", "in_values": ["H"], "out_values": ["S"]}
    prepared = read(tmp_path, text, amount=amount)
    assert bank_movements(prepared) == [-1_00, 2_00]
    assert len(prepared.problems) == 1


def test_an_amount_may_name_its_currency(tmp_path: Path) -> None:
    text = "Date,Amount\n2024-01-02,$1.00\n2024-01-02,2.00 usd\n2024-01-02,3.00\n"
    prepared = read(tmp_path, text, currency={"in_amount": True, "names": {"$": "USD"}})
    assert [intent.legs[0].currency for intent in prepared.mapped.intents] == ["USD", "USD"]
    assert prepared.problems[0].sentence == "The amount names no currency: a currency is needed."


@pytest.mark.parametrize(
    ("style", "texts", "time"),
    [
        ({"format": "%d. %B %Y", "locale": "de"}, ("3. März 2024", None), "2024-03-03T00:00:00Z"),
        ({"format": "%d %b %Y", "locale": "fr"}, ("3 févr. 2024", None), "2024-02-03T00:00:00Z"),
        ({"zone": "Europe/Berlin"}, ("2024-07-01", None), "2024-07-01T00:00:00Z"),
        ({"zone": "Europe/Berlin", "time_column": "T"}, ("2024-07-01", "01:00:00"), "2024-06-30T23:00:00Z"),
        ({"time_column": "T", "time_format": "%H:%M"}, ("2024-07-01", "01:30"), "2024-07-01T01:30:00Z"),
    ],
)
def test_dates(style: dict[str, str], texts: tuple[str, str | None], time: str) -> None:
    mapping = build_mapping(BASE | {"date": {"column": "Date"} | style}, "The mapping")
    assert format_rfc3339(read_moment(*texts, mapping.date).value_time) == time


@pytest.mark.parametrize(
    ("content", "encoding", "sentence"),
    [
        ("Date,Amount\n".encode("utf-16"), "utf-8", 'begins with the mark of utf-16, .* set it to "utf-16"'),
        (b"\xef\xbb\xbfDate,Amount\n", "cp1252", 'begins with the mark of utf-8, .* set it to "utf-8"'),
        (b"Date,Amount\nCaf\xe9,1\n", "utf-8", "line 2 has other bytes. Set file.encoding"),
        (b"Date,Amount\n", "utf-9", "There is no encoding 'utf-9': set file.encoding"),
    ],
)
def test_a_wrong_encoding_names_the_setting(tmp_path: Path, content: bytes, encoding: str, sentence: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    mapping = build_mapping(BASE | {"file": {"encoding": encoding}}, "The mapping")
    with pytest.raises(ImportingError, match=sentence):
        read_ledger(tmp_path / "a.csv", mapping)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"date": 5}, "The mapping is wrong at date: it must be a table."),
        ({"date": {"column": "D", "zone": "Mars"}}, "'Mars' is no zone of the IANA's list"),
        ({"amount": {"column": 5}}, "The mapping is wrong at amount.column: it must be text."),
        ({"colour": "red"}, "The mapping is wrong at colour: there is no such member."),
        ({"dialect": "mybank"}, "There is no dialect 'mybank': choose one of bank-of-america"),
    ],
)
def test_a_wrong_mapping_names_no_class(members: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ImportingError) as refused:
        build_mapping(BASE | members, "The mapping")
    assert sentence in str(refused.value)
    assert not any(word in str(refused.value) for word in ("Error", "Format", "pydantic", "instance"))


def test_a_preview_shows_rows_refusals_and_totals(tmp_path: Path) -> None:
    shown = describe(read(tmp_path, "Date,Amount,Note\n2024-01-02,1.50,x\n2024-01-03,oops,y\n2024-01-04,-0.25,z\n"))
    assert shown["understood"]["columns_not_used"] == ["Note"]
    assert [row["legs"][0]["amount"] for row in shown["rows"]] == ["1.50", "-0.25"]
    assert shown["refused"][0]["line"] == 3
    assert shown["totals"][0] == {
        "account": "assets:bank", "currency": "EUR", "debits": "1.50", "credits": "0.25", "net": "1.25",
    }  # fmt: skip
