"""An outside reader of beancount files: prints what is in one as JSON lines and imports nothing of Ledgerline.

Run as a process of its own (`python -m producers.importing.beancount_reader FILE`), because beancount is under the
GPL: this script speaks to the importer through a pipe only. Amounts are decimal strings, dates ISO 8601.

Each line is an object with a member `kind`:
  options      roots: the file's names of the five root accounts; title
  transaction  place, date, flag, payee, narration, tags, links, meta, tolerances, postings (units, weight, cost, price)
  balance      place, date, account, number, currency, tolerance
  other        place, directive: carries no money
  error        place, message: what beancount itself refuses
  sum          account, number, currency: beancount's own final sums, per account
  end          entries: their number; without this line the reader has died
Exit codes: 0 read, 3 beancount is not installed, 4 the file cannot be read.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3
UNREADABLE = 4


def _place(meta: dict[str, Any] | None) -> dict[str, Any]:
    meta = meta or {}
    return {"file": str(meta.get("filename", "")), "line": int(meta.get("lineno", 0))}


def _plain_meta(meta: dict[str, Any] | None) -> dict[str, str]:
    """Metadata that people wrote, as strings; beancount's own members are left out."""
    return {
        name: str(value)
        for name, value in (meta or {}).items()
        if name not in {"filename", "lineno"} and not name.startswith("__") and value is not None
    }


def _amount(amount: Any) -> dict[str, str] | None:
    return None if amount is None else {"number": format(amount.number, "f"), "currency": amount.currency}


def _posting(posting: Any, weigh: Any) -> dict[str, Any]:
    cost = posting.cost
    return {
        "account": posting.account,
        "units": _amount(posting.units),
        "weight": _amount(weigh(posting)),
        "cost": None
        if cost is None
        else {
            "number": format(cost.number, "f"),
            "currency": cost.currency,
            "date": cost.date.isoformat(),
            "label": cost.label,
        },
        "price": _amount(posting.price),
        "interpolated": bool((posting.meta or {}).get("__automatic__")),
        "line": _place(posting.meta)["line"],
        "meta": _plain_meta(posting.meta),
    }


def _transaction(entry: Any, weigh: Any) -> dict[str, Any]:
    return {
        "kind": "transaction",
        "place": _place(entry.meta),
        "date": entry.date.isoformat(),
        "flag": entry.flag,
        "payee": entry.payee,
        "narration": entry.narration,
        "tags": sorted(entry.tags or ()),
        "links": sorted(entry.links or ()),
        "meta": _plain_meta(entry.meta),
        "tolerances": {
            currency: format(number, "f") for currency, number in (entry.meta.get("__tolerances__") or {}).items()
        },
        "postings": [_posting(posting, weigh) for posting in entry.postings],
    }


def records(path: str) -> Iterator[dict[str, Any]]:
    """All records of a file, in the order of beancount's own sorting."""
    from beancount import loader  # noqa: PLC0415  after the environment is set, and only in this process
    from beancount.core import convert, data, realization  # noqa: PLC0415
    from beancount.ops import balance  # noqa: PLC0415

    entries, errors, options = loader.load_file(path)
    roots = {name: options[f"name_{name}"] for name in ("assets", "liabilities", "equity", "income", "expenses")}
    yield {"kind": "options", "roots": roots, "title": options["title"]}
    for entry in entries:
        if isinstance(entry, data.Transaction):
            yield _transaction(entry, convert.get_weight)
        elif isinstance(entry, data.Balance):
            yield {
                "kind": "balance",
                "place": _place(entry.meta),
                "date": entry.date.isoformat(),
                "account": entry.account,
                **(_amount(entry.amount) or {}),
                "tolerance": format(balance.get_balance_tolerance(entry, options), "f"),
            }
        else:
            yield {"kind": "other", "place": _place(entry.meta), "directive": type(entry).__name__.lower()}
    for error in errors:
        yield {"kind": "error", "place": _place(error.source), "message": " ".join(str(error.message).split())}
    for account in realization.iter_children(realization.realize(entries)):
        for position in account.balance.reduce(convert.get_units):
            yield {"kind": "sum", "account": account.account, **(_amount(position.units) or {})}
    yield {"kind": "end", "entries": len(entries)}


def main() -> int:
    """Print the records of the file that the one argument names."""
    path = sys.argv[1]
    if not Path(path).is_file() or not os.access(path, os.R_OK):
        return UNREADABLE
    with tempfile.TemporaryDirectory() as folder:
        # beancount would else leave its cache beside the ledger that is read.
        os.environ["BEANCOUNT_LOAD_CACHE_FILENAME"] = str(Path(folder) / "cache")
        try:
            import beancount  # noqa: F401, PLC0415
        except ModuleNotFoundError:
            return NOT_INSTALLED
        for record in records(path):
            sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
