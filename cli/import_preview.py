"""The output of `ledgerline import csv --preview`."""

from typing import Any, Final

from cli.output import complain, say, show_json, show_rows

ROWS_SHOWN_MAX: Final = 20


def show_preview(document: dict[str, Any], *, as_json: bool) -> None:
    """Print how the file was read, the first rows as they would be posted, the refused lines, and the totals."""
    if as_json:
        show_json(document)
        return
    understood = {
        name: ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
        for name, value in document["understood"].items()
    }
    show_rows("Understood", [{"": name, "value": value} for name, value in understood.items()], as_json=False)
    rows = [
        {
            "line": row["line"],
            "date": row["value_time"].removesuffix("T00:00:00Z"),
            "amount": leg["amount"],
            "currency": leg["currency"],
            "account": leg["account"],
            "reference": row["reference"],
        }
        for row in document["rows"][:ROWS_SHOWN_MAX]
        for leg in row["legs"]
    ]
    shown, count = min(ROWS_SHOWN_MAX, len(document["rows"])), len(document["rows"])
    show_rows(f"{shown} of {count} rows as they would be posted; debits are positive", rows, as_json=False)
    show_rows("Totals", document["totals"], as_json=False)
    for refused in document["refused"]:
        _complain("refused", f"line {refused['line']}: {refused['sentence']}")
    for fault in document["faults"]:
        _complain("nothing can be posted", fault)
    for kind, number in sorted(document["without_money"].items()):
        say(f"Carries no money: {number} {kind}.")


def _complain(what: str, sentence: str) -> None:
    complain(f" {sentence}", f"[red]{what}[/]")
