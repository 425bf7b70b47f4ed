"""`ledgerline dlq`: show the bytes that could not be decoded or decided, and send them again."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from cli.arguments import find_user_name
from cli.context import find_running_ledger
from cli.hexdump import decode_readable, dump_hex
from cli.output import Json, open_progress_bar, say, show_json, show_rows
from db.operations import (
    LIST_START,
    Place,
    QuarantinedBytes,
    QuarantinedRow,
    Retry,
    Which,
    begin_retry,
    confirm_retry,
    count_quarantined,
    find_quarantined_bytes,
    list_quarantined_rows,
    list_retries,
    list_unconfirmed_retries,
    open_glance,
    open_operator,
    read_intake,
)
from domain.errors import LedgerlineError
from domain.outcomes import QuarantineReason
from producers.retry import Retrier, RetryError, Sent, retry
from runtime.wire_format import FRAME, MAGIC

app = typer.Typer(help="Quarantined bytes: show them, send them again.", no_args_is_help=True)

RETRY_PAGE_ROWS: Final = 200
DUMP_BYTES: Final = 512
_NOTHING_TO_SEND: Final = "Nothing was committed at such an offset, so there is nothing to send again."

Lane = Annotated[int, typer.Argument(min=0, help="As `dlq list` shows it.")]
Seq = Annotated[int, typer.Argument(min=0, help="As `dlq list` shows it.")]
OptionalLane = Annotated[int | None, typer.Argument(min=0, help="As `dlq list` shows it.")]
OptionalSeq = Annotated[int | None, typer.Argument(min=0, help="As `dlq list` shows it.")]
Reason = Annotated[QuarantineReason | None, typer.Option(help="Only rows with this reason.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Most rows.")]
After = Annotated[
    str | None, typer.Option(metavar="CURSOR", help="Show the next page: the cursor that the last page ended with.")
]
Untried = Annotated[bool, typer.Option("--untried", help="Only rows that were never sent again.")]
Bytes = Annotated[int, typer.Option("--bytes", min=0, help="Most bytes to show; --json shows all.")]
All = Annotated[bool, typer.Option("--all", help="Every row that was never sent again.")]
Again = Annotated[bool, typer.Option("--again", help="With --all: also the rows whose retries were all quarantined.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class DeadLetterError(LedgerlineError):
    """There is no such quarantined row, the row has no bytes to send, or the cursor of the list is invalid."""


@app.command("list")
def list_rows(
    reason: Reason = None, untried: Untried = False, limit: Limit = 50, after: After = None, as_json: Json = False
) -> None:
    """List quarantined rows, the oldest first, without their bytes."""
    place = LIST_START if after is None else _parse_place(after)
    with open_glance(find_running_ledger().postgres_dsn) as connection:
        which = Which.UNTRIED if untried else Which.ALL
        rows = list_quarantined_rows(connection, after=place, limit=limit, reason=reason and reason.value, which=which)
    cursor = _make_cursor(rows[-1].place) if len(rows) == limit else None
    if as_json:
        show_json({"items": [_make_listed(row) for row in rows], "next": cursor})
        return
    columns = ("lane", "seq", "booked", "reason", "value_bytes", "retries", "unconfirmed", "retry_of")
    show_rows("Quarantined", [_make_listed(row) for row in rows], as_json=False, columns=columns)
    if cursor is not None:
        say(f"More: ledgerline dlq list --after {cursor}")


@app.command()
def show(lane: Lane, seq: Seq, dump_bytes: Bytes = DUMP_BYTES, as_json: Json = False) -> None:
    """Show one quarantined row: its reason, headers and bytes, and the result of each retry."""
    with open_glance(find_running_ledger().postgres_dsn) as connection:
        row = _find_bytes(find_quarantined_bytes(connection, lane, seq), lane, seq)
        retries = list_retries(connection, lane, seq)
    if as_json:
        show_json(_make_document(row, retries))
        return
    show_rows(f"Lane {lane} seq {seq}", [{"": name, "value": value} for name, value in _list_facts(row)], as_json=False)
    headers = [{"header": name, "value": decode_readable(value or b"")} for name, value in row.headers]
    show_rows("Headers", headers, as_json=False)
    for name, value in (("Key", row.key), ("Value", row.value)):
        _dump(name, value, dump_bytes)
    show_rows("Retries", [_make_retried(item) for item in retries], as_json=False)


@app.command("retry")
def send_again(
    lane: OptionalLane = None,
    seq: OptionalSeq = None,
    everything: All = False,
    again: Again = False,
    reason: Reason = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send quarantined bytes to payments.intents again, unchanged; each retry is recorded.

    Name one row by LANE and SEQ; you may repeat that. --all sends every row that was never sent again, of one --reason
    or of all. A retry that was quarantined too is not sent again itself; --again sends its original row. A retry of an
    intent that is posted already is harmless: an intent is settled once. The command first looks on the topic for
    retries that were cut off.
    """
    if everything == (lane is not None) or (lane is None) != (seq is None):
        raise typer.BadParameter("say LANE and SEQ of one row, or --all")
    if (again or reason is not None) and not everything:
        raise typer.BadParameter("--again and --reason go with --all")
    if reason is QuarantineReason.NO_RECORD:
        raise DeadLetterError(_NOTHING_TO_SEND)
    ledger = find_running_ledger()
    retrier = Retrier(ledger.kafka)
    _settle_trail(ledger.postgres_dsn, retrier)
    if lane is not None and seq is not None:
        with open_glance(ledger.postgres_dsn) as connection:
            row = _find_bytes(find_quarantined_bytes(connection, lane, seq), lane, seq)
        if row.reason == QuarantineReason.NO_RECORD.value:
            raise DeadLetterError(_NOTHING_TO_SEND)
        sent = _send(ledger.postgres_dsn, retrier, [row])
    else:
        which = Which.UNSETTLED if again else Which.UNTRIED
        sent = _send_all(ledger.postgres_dsn, retrier, reason and reason.value, which, yes=yes, quiet=as_json)
    if as_json:
        show_json([item._asdict() for item in sent])
    elif lane is None:
        say(f"Sent {len(sent):,} rows again.")
    else:
        say(
            f"Sent again: {sent[0].topic} partition {sent[0].partition} offset {sent[0].offset}."
            f" What becomes of it: ledgerline dlq show {lane} {seq}",
        )


def _send_all(dsn: str, retrier: Retrier, reason: str | None, which: Which, *, yes: bool, quiet: bool) -> list[Sent]:
    """Send each row that is in quarantine at the start again, once and page by page; return what was sent."""
    with open_glance(dsn) as connection:
        count = count_quarantined(connection, reason=reason, which=which)
    if count and not yes:
        typer.confirm(f"Send {count:,} quarantined rows again?", abort=True, err=True)
    sent: list[Sent] = []
    place = LIST_START
    with open_progress_bar(quiet=quiet) as progress:
        task = progress.add_task("retrying", total=count)
        while len(sent) < count:
            page_rows = min(RETRY_PAGE_ROWS, count - len(sent))
            with open_glance(dsn) as connection:
                page = list_quarantined_rows(connection, after=place, limit=page_rows, reason=reason, which=which)
                rows = [
                    _find_bytes(find_quarantined_bytes(connection, row.lane, row.seq), row.lane, row.seq)
                    for row in page
                ]
            if not rows:
                break  # someone else retried them meanwhile
            sent += _send(dsn, retrier, rows)
            place = page[-1].place
            progress.update(task, completed=len(sent))
    return sent


class _Trail:
    """The record of one operator's retries, in Postgres."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._who = find_user_name()

    def begin(self, row: QuarantinedBytes, from_offset: int) -> int:
        return begin_retry(
            self._connection,
            row.lane,
            row.seq,
            retried_by=self._who,
            topic=row.source_topic,
            partition=row.lane,
            from_offset=from_offset,
        )

    def confirm(self, retry_id: int, offset: int) -> None:
        confirm_retry(self._connection, retry_id, offset)


def _send(dsn: str, retrier: Retrier, rows: list[QuarantinedBytes]) -> list[Sent]:
    with open_operator(dsn) as connection:
        return retry(retrier, rows, _Trail(connection))


def _settle_trail(dsn: str, retrier: Retrier) -> None:
    """Record the result of retries that were cut off; raise RetryError while the intake is closed."""
    with open_operator(dsn) as connection:
        because = read_intake(connection).closed_because
        if because is not None:
            raise RetryError(f"The intake is closed ({because}): retry when it is open, `ledgerline intake show`.")
        cut_off = list_unconfirmed_retries(connection)
        found = retrier.find(cut_off)
        for item in cut_off:
            if item.retry_id in found or item.is_over:
                confirm_retry(connection, item.retry_id, found.get(item.retry_id))


def _find_bytes(row: QuarantinedBytes | None, lane: int, seq: int) -> QuarantinedBytes:
    if row is None:
        raise DeadLetterError(f"Lane {lane} seq {seq} is not quarantined: `ledgerline dlq list` shows what is.")
    return row


def _make_cursor(place: Place) -> str:
    return ".".join(map(str, place))


def _parse_place(cursor: str) -> Place:
    parts = cursor.split(".")
    if len(parts) != len(Place._fields) or not all(part.isascii() and part.isdigit() for part in parts):
        raise DeadLetterError(f"{cursor!r} is no cursor: take the one that `ledgerline dlq list` ended with.")
    return Place(*map(int, parts))


def _format_time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _make_listed(row: QuarantinedRow) -> dict[str, Any]:
    origin = None if row.retry_of_lane is None else f"{row.retry_of_lane}/{row.retry_of_seq}"
    return row._asdict() | {"booked": _format_time(row.booked_time), "retry_of": origin}


def _list_facts(row: QuarantinedBytes) -> list[tuple[str, str]]:
    return [
        ("reason", row.reason),
        ("detail", row.detail),
        ("source", f"{row.source_topic} partition {row.lane} offset {row.source_offset}"),
        ("booked", _format_time(row.booked_time)),
        ("bytes", "none: a tombstone" if row.value is None else f"{len(row.value):,}"),
        ("frame", _describe_frame(row.value)),
        ("sha-256", row.fingerprint.hex()),
    ]


def _describe_frame(value: bytes | None) -> str:
    if value is None or len(value) < FRAME.size:
        return "none: fewer than five bytes"
    magic, schema_id = FRAME.unpack_from(value)
    return f"schema id {schema_id}" if magic == MAGIC else f"none: begins with {value[0]:#04x} in place of 0x00"


def _dump(name: str, value: bytes | None, dump_bytes: int) -> None:
    if value is None:
        say(f"{name}: none.")
        return
    say(f", {len(value):,} bytes", f"[bold]{name}[/]")
    for line in dump_hex(value[:dump_bytes]):
        say(line)
    if value:
        say(f"as text: {decode_readable(value[:dump_bytes])}")
    if len(value) > dump_bytes:
        say(f"... {len(value) - dump_bytes:,} more; --bytes {len(value)} dumps all.")


def _make_retried(item: Retry) -> dict[str, Any]:
    return {
        "retry": item.retry_id,
        "time": item.retried_time.isoformat(timespec="seconds"),
        "by": item.retried_by,
        "offset": item.source_offset,
        "seq": item.seq,
        "outcome": item.outcome or _describe_waiting(item),
        "reason": item.reason,
    }


def _describe_waiting(item: Retry) -> str:
    if item.confirmed_time is None:
        return "not confirmed"
    return "did not go out" if item.source_offset is None else "not posted yet"


def _format_hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _make_document(row: QuarantinedBytes, retries: list[Retry]) -> dict[str, Any]:
    """Return the whole row and its retries, with bytes in hex."""
    return {
        "lane": row.lane,
        "seq": row.seq,
        "reason": row.reason,
        "detail": row.detail,
        "source_topic": row.source_topic,
        "source_offset": row.source_offset,
        "booked_time": row.booked_time,
        "hash": row.hash.hex(),
        "fingerprint": row.fingerprint.hex(),
        "key": _format_hex(row.key),
        "value": _format_hex(row.value),
        "headers": [{"name": name, "value": _format_hex(value)} for name, value in row.headers],
        "retries": [_retry_document(item) for item in retries],
    }


def _retry_document(item: Retry) -> dict[str, Any]:
    confirmed = None if item.confirmed_time is None else item.confirmed_time.isoformat()
    return item._asdict() | {"retried_time": item.retried_time.isoformat(), "confirmed_time": confirmed}
