"""How banks and payment providers write their CSV files: one table of mappings without accounts, as data.

Names of columns are those of real exports; what an export leaves open (the currency of a bank that has one, the sign $)
is filled in with the bank's home. A mapping overrides any member.
"""

from typing import Any, Final

_GERMAN: Final[dict[str, Any]] = {"decimal": ",", "grouping": "."}

DIALECTS: Final[dict[str, dict[str, Any]]] = {
    "deutsche-bank": {
        "file": {"delimiter": ";", "stop": "^Kontostand;"},
        "date": {"column": "Buchungstag", "format": ["%d.%m.%Y", "%d.%m.%y"]},
        "amount": {"column": "Betrag", **_GERMAN},
        "currency": {"column": "Währung"},
        "reference": "{Verwendungszweck}",
        "metadata": {"payee": "Begünstigter / Auftraggeber"},
    },
    "sparkasse-camt": {
        "file": {"delimiter": ";", "encoding": "cp1252"},
        "date": {"column": "Valutadatum", "format": "%d.%m.%y"},
        "amount": {"column": "Betrag", **_GERMAN},
        "currency": {"column": "Waehrung"},
        "status": {"column": "Info", "posted": ["Umsatz gebucht"], "skipped": ["Umsatz vorgemerkt"]},
        "reference": "{Verwendungszweck}",
        "metadata": {"payee": "Beguenstigter/Zahlungspflichtiger"},
    },
    "ing-de": {
        "file": {"delimiter": ";", "encoding": "cp1252"},
        "date": {"column": "Buchung", "format": "%d.%m.%Y"},
        "amount": {"column": "Betrag", **_GERMAN},
        "currency": {"column": "Währung"},
        "balance": {"column": "Saldo"},
        "reference": "{Verwendungszweck}",
        "metadata": {"payee": "Auftraggeber/Empfänger"},
    },
    "n26": {
        "date": {"column": "Booking Date"},
        "amount": {"column": "Amount (EUR)", "grouping": ""},
        "currency": {"code": "EUR"},
        "reference": "{Payment Reference}",
        "metadata": {"payee": "Partner Name"},
    },
    "revolut": {
        "date": {"column": "Completed Date", "format": ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]},
        "amount": {"column": "Amount", "grouping": ""},
        "currency": {"column": "Currency"},
        "status": {"column": "State", "posted": ["COMPLETED"], "skipped": ["PENDING", "REVERTED", "DECLINED"]},
        "fee": {"column": "Fee", "account": "expenses:fees:revolut"},
        "balance": {"column": "Balance"},
        "reference": "{Description}",
    },
    "wise": {
        "date": {"column": "Date", "format": "%d-%m-%Y"},
        "amount": {"column": "Amount", "grouping": ""},
        "currency": {"column": "Currency"},
        "balance": {"column": "Running Balance"},
        "key": {"columns": ["TransferWise ID"]},
        "reference": "{Description}",
    },
    "paypal": {
        "date": {
            "column": "Date",
            "format": "%m/%d/%Y",
            "time_column": "Time",
            "zone": "America/Los_Angeles",
        },
        "amount": {"column": "Gross"},
        "currency": {"column": "Currency"},
        "status": {"column": "Status", "posted": ["Completed"], "skipped": ["Pending", "Denied", "Canceled"]},
        "fee": {"column": "Fee", "account": "expenses:fees:paypal", "sign": "negative_is_cost"},
        "key": {"columns": ["Transaction ID"]},
        "reference": "{Name}",
        "metadata": {"kind": "Type"},
    },
    "stripe": {
        "date": {"column": "Created (UTC)", "format": ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]},
        "amount": {"column": "Amount"},
        "currency": {"column": "Currency"},
        "fee": {"column": "Fee", "account": "expenses:fees:stripe"},
        "key": {"columns": ["id"]},
        "reference": "{Description}",
        "metadata": {"kind": "Type"},
    },
    "hsbc-uk": {
        "file": {"header": ["Date", "Description", "Amount"]},
        "date": {"column": "Date", "format": "%d/%m/%Y"},
        "amount": {"column": "Amount"},
        "currency": {"code": "GBP"},
        "reference": "{Description}",
    },
    "barclays": {
        "date": {"column": "Date", "format": "%d/%m/%Y"},
        "amount": {"column": "Amount"},
        "currency": {"code": "GBP"},
        "reference": "{Memo}",
    },
    "chase": {
        "date": {"column": "Posting Date", "format": "%m/%d/%Y"},
        "amount": {"column": "Amount"},
        "currency": {"code": "USD"},
        "balance": {"column": "Balance"},
        "reference": "{Description}",
        "metadata": {"kind": "Type"},
    },
    "bank-of-america": {
        "file": {"skip": "Beginning balance as of|Ending balance as of"},
        "date": {"column": "Date", "format": "%m/%d/%Y"},
        "amount": {"column": "Amount"},
        "currency": {"code": "USD"},
        "balance": {"column": "Running Bal."},
        "reference": "{Description}",
    },
    "hdfc": {
        "file": {"stop": "STATEMENT SUMMARY", "skip": r"^\*+"},
        "date": {"column": "Value Dt", "format": ["%d/%m/%y", "%d/%m/%Y"]},
        "amount": {"in_column": "Deposit Amt.", "out_column": "Withdrawal Amt."},
        "currency": {"code": "INR"},
        "balance": {"column": "Closing Balance"},
        "reference": "{Narration}",
        "metadata": {"bank_reference": "Chq./Ref.No."},
    },
    "ubs": {
        "file": {"delimiter": ";"},
        "date": {"column": "Value date", "format": ["%Y-%m-%d", "%d.%m.%Y"]},
        "amount": {"in_column": "Credit", "out_column": "Debit", "grouping": "'", "out_sign": "negative"},
        "currency": {"column": "Currency"},
        "reference": "{Description1}",
    },
    "handelsbanken": {
        "file": {"delimiter": ";", "encoding": "cp1252"},
        "date": {"column": "Transaktionsdatum"},
        "amount": {"column": "Belopp", "decimal": ",", "grouping": " "},
        "currency": {"code": "SEK"},
        "balance": {"column": "Saldo"},
        "reference": "{Text}",
    },
    "la-banque-postale": {
        "file": {"delimiter": ";", "encoding": "cp1252"},
        "date": {"column": "Date", "format": ["%d/%m/%Y", "%d %B %Y", "%d %b %Y"], "locale": "fr"},
        "amount": {"column": "Montant(EUROS)", "decimal": ",", "grouping": " "},
        "currency": {"code": "EUR"},
        "reference": "{Libellé}",
    },
    "bank-of-ceylon": {
        "date": {"column": "Date", "format": ["%d/%m/%Y", "%d-%b-%Y"]},
        "amount": {"column": "Amount"},
        "currency": {"code": "LKR"},
        "balance": {"column": "Balance"},
        "reference": "{Description}",
    },
}
