"""An outside reader of beancount files: it prints a file's content as JSON lines and imports nothing of Ledgerline.

It runs as a separate process (`python -m producers.importing.beancount_reader FILE`), because beancount is under the
GPL. It talks to the importer only through a pipe. Amounts are decimal strings, dates are ISO 8601.

Each line is an object with a member `kind`:
  options      roots: the file's names of the five root accounts; title; operating: the operating currencies
  transaction  place, date, flag, payee, narration, tags, links, meta, tolerances, and postings (account, units, weight,
               cost, price, interpolated, line, meta)
  balance      place, date, account, number, currency, tolerance
  other        place, directive: carries no money
  error        place, message, fatal: what beancount refuses; fatal if the error may have changed other transactions
  sum          account, number, currency: beancount's own final sums, per account
  end          entries: their number; without this line the reader has died
Exit codes: 0 read, 3 beancount is not installed, 4 the file cannot be read.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

_NAMED = re.compile(r"[A-Za-z_][\w.]*: |[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)$")
NOT_INSTALLED = 3
UNREADABLE = 4


def _make_place(meta: dict[str, Any] | None) -> dict[str, Any]:
    meta = meta or {}
    return {"file": str(meta.get("filename", "")), "line": int(meta.get("lineno", 0))}


def _make_plain_meta(meta: dict[str, Any] | None) -> dict[str, str]:
    """Return the metadata that people wrote, as strings, without beancount's own members."""
    return {
        name: str(value)
        for name, value in (meta or {}).items()
        if name not in {"filename", "lineno"} and not name.startswith("__") and value is not None
    }


def _make_amount(amount: Any) -> dict[str, str] | None:
    return None if amount is None else {"number": format(amount.number, "f"), "currency": amount.currency}


def _make_posting(posting: Any, weigh: Any) -> dict[str, Any]:
    cost = posting.cost
    return {
        "account": posting.account,
        "units": _make_amount(posting.units),
        "weight": _make_amount(weigh(posting)),
        "cost": None
        if cost is None
        else {
            "number": format(cost.number, "f"),
            "currency": cost.currency,
            "date": cost.date.isoformat(),
            "label": cost.label,
        },
        "price": _make_amount(posting.price),
        "interpolated": bool((posting.meta or {}).get("__automatic__")),
        "line": _make_place(posting.meta)["line"],
        "meta": _make_plain_meta(posting.meta),
    }


def _is_whole(posting: Any) -> bool:
    """Return whether all amounts of a posting have a number and a currency. Plugins may return postings without."""
    price, cost = posting.price, posting.cost
    amounts = [posting.units, *([price] if price is not None else []), *([cost] if cost is not None else [])]
    return all(
        isinstance(getattr(amount, "number", None), Decimal) and isinstance(getattr(amount, "currency", None), str)
        for amount in amounts
    )


def _make_transaction(entry: Any, weigh: Any) -> dict[str, Any]:
    return {
        "kind": "transaction",
        "place": _make_place(entry.meta),
        "date": entry.date.isoformat(),
        "flag": entry.flag,
        "payee": entry.payee,
        "narration": entry.narration,
        "tags": sorted(entry.tags or ()),
        "links": sorted(entry.links or ()),
        "meta": _make_plain_meta(entry.meta),
        "tolerances": {
            currency: format(number, "f")
            for currency, number in (entry.meta.get("__tolerances__") or {}).items()
            if isinstance(currency, str)  # beancount's mark for a missing currency is a class
        },
        "postings": [_make_posting(posting, weigh) for posting in entry.postings],
    }


def read_records(path: str) -> Iterator[dict[str, Any]]:
    """Yield all records of a file, in beancount's own order."""
    from beancount import loader  # noqa: PLC0415  after the environment is set, and only in this process
    from beancount.core import convert, data  # noqa: PLC0415
    from beancount.ops import balance  # noqa: PLC0415

    try:
        entries, errors, options = loader.load_file(path)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin may raise anything while it is imported
        yield _make_error({}, f"A plugin stopped beancount: {error or type(error).__name__}", fatal=True)
        yield {"kind": "end", "entries": 0}
        return
    # An incomplete posting has no weight and no sum, and beancount's own validation may miss it.
    broken = [
        entry
        for entry in entries
        if isinstance(entry, data.Transaction) and not all(_is_whole(posting) for posting in entry.postings)
    ]
    entries = [entry for entry in entries if not any(entry is other for other in broken)] if broken else entries
    roots = {name: options[f"name_{name}"] for name in ("assets", "liabilities", "equity", "income", "expenses")}
    operating = list(options["operating_currency"])
    yield {"kind": "options", "roots": roots, "title": options["title"], "operating": operating}
    for entry in entries:
        if isinstance(entry, data.Transaction):
            yield _make_transaction(entry, convert.get_weight)
        elif isinstance(entry, data.Balance):
            yield {
                "kind": "balance",
                "place": _make_place(entry.meta),
                "date": entry.date.isoformat(),
                "account": entry.account,
                **(_make_amount(entry.amount) or {}),
                "tolerance": format(balance.get_balance_tolerance(entry, options), "f"),
            }
        else:
            yield {"kind": "other", "place": _make_place(entry.meta), "directive": type(entry).__name__.lower()}
    for entry in broken:
        yield _make_error(entry.meta, "A posting of it has no number or no currency.", fatal=False)
    for found in errors:
        # Half of the money may depend on a plugin that did not load or failed, or on a file that was not found.
        yield _make_error(found.source, str(found.message), fatal=isinstance(found, loader.LoadError))
    yield from _read_sums(entries)
    yield {"kind": "end", "entries": len(entries)}


def _read_sums(entries: Any) -> Iterator[dict[str, Any]]:
    from beancount.core import convert, realization  # noqa: PLC0415

    for account in realization.iter_children(realization.realize(entries)):
        for position in account.balance.reduce(convert.get_units):
            yield {"kind": "sum", "account": account.account, **(_make_amount(position.units) or {})}


def _make_error(meta: dict[str, Any] | None, message: str, *, fatal: bool) -> dict[str, Any]:
    return {"kind": "error", "place": _make_place(meta), "message": _make_sentence(message), "fatal": fatal}


def _make_sentence(message: str) -> str:
    """Return a message in one line. Of a traceback, keep only the words before it and the error at its end."""
    head, traceback, tail = message.partition("Traceback (most recent call last):")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    # The last line that begins with a name is the exception. Its message may continue on further lines.
    named = [number for number, line in enumerate(lines) if _NAMED.match(line)]
    kept = " ".join(lines[named[-1] :] if named else lines[-1:])
    # Keep the exception's message without the class name, if it has a message.
    kept = kept.partition(": ")[2] or kept
    return " ".join((head + kept if traceback else message).split())


def main() -> int:
    """Print the records of the file that the only argument names. Return the exit code."""
    path = sys.argv[1]
    if not Path(path).is_file() or not os.access(path, os.R_OK):
        return UNREADABLE
    with tempfile.TemporaryDirectory() as folder:
        # Otherwise beancount leaves its cache beside the ledger file.
        os.environ["BEANCOUNT_LOAD_CACHE_FILENAME"] = str(Path(folder) / "cache")
        try:
            import beancount  # noqa: F401, PLC0415
        except ModuleNotFoundError:
            return NOT_INSTALLED
        output = sys.stdout
        # Otherwise the output of a plugin that prints would mix with the records.
        with redirect_stdout(sys.stderr):
            for record in read_records(path):
                output.write(json.dumps(record, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
