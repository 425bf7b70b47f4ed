"""`ledgerline intents`: post intents through the HTTP API, and show their outcomes."""

import asyncio
import codecs
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from cli.amounts import parse_minor
from cli.api_client import find_api_address, get_answer, open_api_client
from cli.arguments import check_address, check_key
from cli.output import Json, open_progress_bar, say, show_json, show_rows
from domain.errors import LedgerlineError
from producers.importing.sender import BATCH_ITEMS_MAX, BatchSender, Fate, ItemResult, Patience

app = typer.Typer(help="Post intents through the API and see what became of them.", no_args_is_help=True)

_SHOWN: Final = ("intent_id", "status", "reason", "detail", "type", "reference", "value_time", "booked_time")

Key = Annotated[str | None, typer.Option(help="Idempotency key; a new one if left out. A retry must use the same key.")]
Wait = Annotated[int, typer.Option(min=0, max=60, help="Seconds to wait for the outcome.")]
Reference = Annotated[str | None, typer.Option(help="A text for people.")]


class IntentError(LedgerlineError):
    """The arguments do not give a complete intent."""


def _parse_minor(amount: str | None, amount_minor: int | None, currency: str) -> int:
    if (amount is None) == (amount_minor is None):
        raise IntentError("Give the amount once: --amount 12.50, or --amount-minor 1250.")
    if amount_minor is not None:
        return amount_minor
    return parse_minor(str(amount), currency)


def read_body(file: Path) -> Any:
    """Return the JSON value in a file, or in standard input for `-`; raise IntentError."""
    try:
        return orjson.loads(_read_bytes(file))
    except orjson.JSONDecodeError as error:
        raise IntentError(f"{file} is not JSON: {error}.") from error


def make_transfer(
    debit: str | None,
    credit: str | None,
    amount: str | None,
    amount_minor: int | None,
    currency: str,
    reference: str | None,
) -> dict[str, Any]:
    """Return the body of a transfer of two legs; raise IntentError if the options do not give a whole one."""
    if debit is None or credit is None:
        raise IntentError("Say which account to --debit and which to --credit, or give a --file.")
    for account, hint in ((debit, "--debit"), (credit, "--credit")):
        check_address(account, hint)
    minor = _parse_minor(amount, amount_minor, currency)
    legs = [
        {"account": account, "direction": direction, "amount_minor": minor, "currency": currency}
        for account, direction in ((debit, "debit"), (credit, "credit"))
    ]
    return {"type": "transfer", "legs": legs, "reference": reference}


def _show(view: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(view)
        return
    rows = [{"": name.replace("_", " "), "value": view[name]} for name in _SHOWN if view.get(name)]
    rows += [{"": name, "value": value} for name, value in view["receipt"].items() if value is not None]
    show_rows("Intent", rows, as_json=False)
    if view.get("legs"):
        show_rows("Legs", view["legs"], as_json=False, columns=("account", "direction", "amount", "currency"))


def _send(body: Any, key: str | None, wait: int, *, as_json: bool) -> None:
    # The headers are bytes: a key may be any text, but httpx takes only ASCII in a string.
    headers = [(b"Idempotency-Key", (key if key is not None else f"cli-{uuid.uuid4()}").encode())]
    if wait:
        headers.append((b"Prefer", b"wait=%d" % wait))
    with open_api_client() as client:
        view = get_answer(client.post("/v1/intents", json=body, headers=headers))
    _show(view, as_json=as_json)
    if view["status"] == "rejected":
        raise typer.Exit(1)


@app.command()
def post(
    debit: Annotated[str | None, typer.Option(help="Account to debit.")] = None,
    credit: Annotated[str | None, typer.Option(help="Account to credit.")] = None,
    amount: Annotated[str | None, typer.Option(help="Decimal, such as 12.50.")] = None,
    amount_minor: Annotated[int | None, typer.Option(help="Whole number of minor units, such as 1250.")] = None,
    currency: Annotated[str, typer.Option(help="ISO 4217 code or registered unit.")] = "EUR",
    reference: Reference = None,
    file: Annotated[
        Path | None, typer.Option(help="File with one JSON intent with any number of legs; - is standard input.")
    ] = None,
    key: Key = None,
    wait: Wait = 10,
    as_json: Json = False,
) -> None:
    """Post one transfer, of two legs by options or of any number by a file. Exit code 1 if it is rejected."""
    if file is not None:
        body = read_body(file)
    else:
        body = make_transfer(debit, credit, amount, amount_minor, currency, reference)
    _send(body, None if key is None else check_key(key), wait, as_json=as_json)


@app.command()
def reverse(
    intent_id: Annotated[uuid.UUID, typer.Argument(help="The posted intent.")],
    reference: Reference = None,
    key: Key = None,
    wait: Wait = 10,
    as_json: Json = False,
) -> None:
    """Reverse all that is still unreversed of a posted intent."""
    body = {"type": "reversal", "reverses": str(intent_id), "reference": reference}
    _send(body, f"reverse-{intent_id}" if key is None else check_key(key), wait, as_json=as_json)


@app.command()
def show(
    intent_id: Annotated[uuid.UUID, typer.Argument(help="The intent's id, from the answer when it was posted.")],
    partition: Annotated[
        int | None, typer.Option(help="Partition of the receipt, to tell pending from unknown.")
    ] = None,
    offset: Annotated[int | None, typer.Option(help="Offset of the receipt.")] = None,
    as_json: Json = False,
) -> None:
    """Show what became of an intent."""
    receipt = {name: value for name, value in (("partition", partition), ("offset", offset)) if value is not None}
    with open_api_client() as client:
        view = get_answer(client.get(f"/v1/intents/{intent_id}", params=receipt))
    _show(view, as_json=as_json)
    if view["status"] == "pending" and not as_json:
        say("The ledger has not come to it yet.")


@app.command("import")
def import_lines(
    file: Annotated[
        Path, typer.Argument(help="NDJSON file: on each line an intent with its idempotency_key; - is standard input.")
    ],
    wait: Annotated[int, typer.Option(min=0, max=60, help="Seconds to wait for each batch's outcomes.")] = 30,
    as_json: Json = False,
) -> None:
    """Post many intents in batches. If some are not posted, list them with their lines and exit with 1."""
    content = _read_bytes(file)
    numbered = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    batches = [
        [line for _, line in numbered[at : at + BATCH_ITEMS_MAX]] for at in range(0, len(numbered), BATCH_ITEMS_MAX)
    ]
    url, key = find_api_address()
    with open_progress_bar(quiet=as_json) as progress:
        task = progress.add_task("posting", total=len(numbered))
        answers = asyncio.run(_send_batches(url, key, batches, wait, lambda items: progress.advance(task, items)))
    results = [result for batch in answers for result in batch]
    counts = Counter("posted before" if result.replayed else result.fate.value for result in results)
    wanted = (Fate.POSTED,) if wait else (Fate.POSTED, Fate.PENDING)
    others = [
        {"line": number, "fate": result.fate.value, "reason": result.reason, "detail": result.detail}
        for (number, _), result in zip(numbered, results, strict=True)
        if result.fate not in wanted
    ]
    if as_json:
        show_json({"counts": counts, "not_posted": others})
    else:
        show_rows("Intents", [{"fate": fate, "count": count} for fate, count in counts.items()], as_json=False)
        if others:
            show_rows("Not posted", others, as_json=False)
    raise typer.Exit(1 if others else 0)


def _read_bytes(file: Path) -> bytes:
    """Return the content of a file, or of standard input for `-`, without the UTF-8 byte order mark of some editors."""
    try:
        content = _read_input_bytes() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise IntentError(f"{file} cannot be read: {error.strerror}.") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise IntentError(f"{file} is written in UTF-16: save it as UTF-8.")
    return content.removeprefix(codecs.BOM_UTF8)


def _read_input_bytes() -> bytes:
    if sys.stdin is None:
        raise IntentError("Standard input is closed: give a file.")
    return sys.stdin.buffer.read()


async def _send_batches(
    url: str, key: str, batches: list[list[bytes]], wait: int, on_answered: Callable[[int], None]
) -> list[list[ItemResult]]:
    async with BatchSender(url, key, patience=Patience(wait_seconds=wait)) as sender:
        return await sender.send_all(batches, on_answered)
