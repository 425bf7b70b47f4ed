"""`ledgerline schedules`: intents for later, or repeated, through the HTTP API."""

import uuid
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from cli.api_client import get_answer, list_items, open_api_client
from cli.arguments import check_key
from cli.commands.intents import IntentError, make_transfer, read_body
from cli.output import Json, show_json, show_rows

app = typer.Typer(help="Intents for later, or repeated.", no_args_is_help=True)

_SHOWN: Final = ("schedule_id", "state", "end_reason", "name", "start", "zone", "rrule", "missed", "version", "trouble")
_COLUMNS: Final = ("schedule_id", "state", "name", "rrule", "zone", "next", "due")

Id = Annotated[uuid.UUID, typer.Argument(help="The schedule's id, from the answer when it was made.")]
Name = Annotated[str | None, typer.Option(help="A text for people.")]
Start = Annotated[str | None, typer.Option(help="Local time in the zone, such as 2027-01-31T09:00.")]
Zone = Annotated[str | None, typer.Option(help="Time zone, such as Europe/Berlin; UTC if left out.")]
Rule = Annotated[str | None, typer.Option(help="Rule by RFC 5545, such as FREQ=MONTHLY;COUNT=12; once if left out.")]
Missed = Annotated[
    str | None, typer.Option(help="What becomes of occurrences that downtime made late: post, skip or last.")
]
Retries = Annotated[int | None, typer.Option(min=0, max=10, help="Attempts after a refused one.")]
RetryPause = Annotated[int | None, typer.Option(min=60, help="Seconds between two attempts.")]
Debit = Annotated[str | None, typer.Option(help="Account to debit.")]
Credit = Annotated[str | None, typer.Option(help="Account to credit.")]
Amount = Annotated[str | None, typer.Option(help="Decimal, such as 12.50.")]
AmountMinor = Annotated[int | None, typer.Option(help="Whole number of minor units, such as 1250.")]
Currency = Annotated[str, typer.Option(help="ISO 4217 code or registered unit.")]
Reference = Annotated[str | None, typer.Option(help="A text for people.")]
File = Annotated[Path | None, typer.Option(help="File with one JSON intent; - is standard input.")]
Limit = Annotated[int, typer.Option(min=1, help="Most rows.")]
Version = Annotated[
    int | None, typer.Option(min=1, help="Act only on this version of the schedule; on the newest if left out.")
]


def _make_row(view: dict[str, Any]) -> dict[str, Any]:
    current = view["current"] or {}
    return view | {"next": current.get("local", ""), "due": current.get("due_time") or current.get("state", "")}


def _show(view: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(view)
        return
    rows = [{"": name.replace("_", " "), "value": view[name]} for name in _SHOWN if view.get(name)]
    current = view["current"] or {}
    rows += [{"": f"current {name.replace('_', ' ')}", "value": value} for name, value in current.items() if value]
    rows += [{"": f"retry {name.replace('_', ' ')}", "value": value} for name, value in view["retry"].items()]
    show_rows("Schedule", rows, as_json=False)
    show_rows(
        "Legs", view["intent"]["legs"], as_json=False, columns=("account", "direction", "amount_minor", "currency")
    )


def _make_fields(
    name: str | None, start: str | None, zone: str | None, rrule: str | None, missed: str | None, retries: int | None,
    retry_pause: int | None,
) -> dict[str, Any]:  # fmt: skip
    given = {"name": name, "start": start, "zone": zone, "rrule": rrule, "missed": missed}
    fields: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    retry = {"times": retries, "pause_seconds": retry_pause}
    if retries is not None or retry_pause is not None:
        fields["retry"] = {field: value for field, value in retry.items() if value is not None}
    return fields


@app.command()
def create(
    start: Annotated[str, typer.Option(help="Local time in the zone, such as 2027-01-31T09:00.")],
    debit: Debit = None,
    credit: Credit = None,
    amount: Amount = None,
    amount_minor: AmountMinor = None,
    currency: Currency = "EUR",
    reference: Reference = None,
    file: File = None,
    name: Name = None,
    zone: Zone = None,
    rrule: Rule = None,
    missed: Missed = None,
    retries: Retries = None,
    retry_pause: RetryPause = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key; a new one if left out. A retry must use the same key.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a schedule of one transfer, given by options or by a file."""
    if file is not None:
        intent = read_body(file)
    else:
        intent = make_transfer(debit, credit, amount, amount_minor, currency, reference)
    body = _make_fields(name, start, zone, rrule, missed, retries, retry_pause) | {"intent": intent}
    given = f"cli-{uuid.uuid4()}" if key is None else check_key(key)
    with open_api_client() as client:
        headers = [(b"Idempotency-Key", given.encode())]
        _show(get_answer(client.post("/v1/schedules", json=body, headers=headers)), as_json=as_json)


@app.command("list")
def list_schedules(
    state: Annotated[str | None, typer.Option(help="Only these: active, paused or ended.")] = None,
    due_before: Annotated[str | None, typer.Option(help="Only those that are due before a time (RFC 3339).")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List the schedules of the key's tenant, the newest first."""
    with open_api_client() as client:
        rows = list_items(client, "/v1/schedules", {"state": state, "due_before": due_before}, limit)
    if as_json:
        show_json(rows)
    else:
        show_rows("Schedules", [_make_row(row) for row in rows], as_json=False, columns=_COLUMNS)


@app.command()
def show(schedule_id: Id, as_json: Json = False) -> None:
    """Show a schedule and its current occurrence."""
    with open_api_client() as client:
        _show(get_answer(client.get(f"/v1/schedules/{schedule_id}")), as_json=as_json)


@app.command()
def occurrences(schedule_id: Id, limit: Limit = 100, as_json: Json = False) -> None:
    """List the occurrences that were sent, settled or skipped, the newest first."""
    with open_api_client() as client:
        rows = list_items(client, f"/v1/schedules/{schedule_id}/occurrences", {}, limit)
    columns = ("number", "local", "state", "attempts", "intent_id", "reason", "next_attempt_time")
    show_rows("Occurrences", rows, as_json=as_json, columns=None if as_json else columns)


@app.command()
def pause(schedule_id: Id, version: Version = None, as_json: Json = False) -> None:
    """Pause a schedule. What falls into the pause is skipped."""
    _send_action(schedule_id, "pause", version, as_json=as_json)


@app.command()
def resume(schedule_id: Id, version: Version = None, as_json: Json = False) -> None:
    """Resume a paused schedule."""
    _send_action(schedule_id, "resume", version, as_json=as_json)


@app.command()
def end(schedule_id: Id, version: Version = None, as_json: Json = False) -> None:
    """End a schedule for good."""
    _send_action(schedule_id, "end", version, as_json=as_json)


@app.command()
def change(
    schedule_id: Id,
    debit: Debit = None,
    credit: Credit = None,
    amount: Amount = None,
    amount_minor: AmountMinor = None,
    currency: Currency = "EUR",
    reference: Reference = None,
    file: File = None,
    name: Name = None,
    start: Start = None,
    zone: Zone = None,
    rrule: Rule = None,
    missed: Missed = None,
    retries: Retries = None,
    retry_pause: RetryPause = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Change the fields that are given. A new rule, start or zone holds from the next occurrence on."""
    body = _make_fields(name, start, zone, rrule, missed, retries, retry_pause)
    if file is not None:
        body["intent"] = read_body(file)
    elif debit is not None or credit is not None:
        body["intent"] = make_transfer(debit, credit, amount, amount_minor, currency, reference)
    if not body:
        raise IntentError("Give at least one field to change.")
    with open_api_client() as client:
        answer = client.patch(f"/v1/schedules/{schedule_id}", json=body, headers=_make_match(version))
        _show(get_answer(answer), as_json=as_json)


def _make_match(version: int | None) -> dict[str, str]:
    return {"If-Match": "*" if version is None else f'"{version}"'}


def _send_action(schedule_id: uuid.UUID, action: str, version: int | None, *, as_json: bool) -> None:
    with open_api_client() as client:
        answer: httpx.Response = client.post(f"/v1/schedules/{schedule_id}/{action}", headers=_make_match(version))
        _show(get_answer(answer), as_json=as_json)
