"""Compares a replayed ledger with the live one, row by row and by address, up to the end of the replayed lanes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from db import comparison as db
from db.agent_connection import open_snapshot

PAGE_ROWS: Final = 5000

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total amount."""


class Difference(NamedTuple):
    """The first place at which two ledgers differ; values as text."""

    table: str
    lane: int
    place: str
    """Such as `seq 17`, or tenant, account and currency."""
    member: str
    replayed: str
    live: str


class Comparison(NamedTuple):
    """The result of a comparison."""

    rows: int
    """Journal rows that were compared."""
    difference: Difference | None


def compare(replayed_dsn: str, live_dsn: str, progress: Progress = lambda *_: None) -> Comparison:
    """Compare lanes, journal, entries, balances and quarantined bytes; stop at the first difference.

    If the live ledger has more rows, because it goes on, only its rows up to the replayed lane's end are compared. If
    it has fewer rows, that is the difference. Each side is read in one snapshot.
    """
    with open_snapshot(replayed_dsn, db.ROLE) as replayed, open_snapshot(live_dsn, db.ROLE) as live:
        lanes = db.read_lanes(replayed)
        rows = sum(lane["next_seq"] for lane in lanes.values())
        found = next(_find_differences(replayed, live, lanes, rows, progress), None)
    return Comparison(rows, found)


def _find_differences(
    replayed: Any, live: Any, lanes: dict[int, dict[str, Any]], total: int, progress: Progress
) -> Iterator[Difference]:
    held = db.read_lanes(live)
    for lane, own in lanes.items():
        other = held.get(lane, {})
        if other.get("next_seq", 0) > own["next_seq"]:
            other = {**own, **{name: other[name] for name in ("topic", "topic_id", "first_offset")}}
        yield from _compare_members("lane", lane, "", own, other)
    done = 0
    for lane, own in lanes.items():
        for first in range(0, own["next_seq"], PAGE_ROWS):
            end = min(first + PAGE_ROWS, own["next_seq"])
            for table in ("journal", "entry", "quarantine"):
                pages = [db.read_rows(connection, table, lane, first, end) for connection in (replayed, live)]
                yield from _compare_rows(table, lane, *pages)
            done += end - first
            progress("compare", done, total)
        is_further = held.get(lane, {}).get("next_seq", 0) > own["next_seq"]
        yield from _compare_rows(
            "balance",
            lane,
            db.read_balances(replayed, lane),
            db.read_balances(live, lane, own["next_seq"] if is_further else None),
        )


def _compare_rows(
    table: str, lane: int, replayed: Sequence[dict[str, Any]], live: Sequence[dict[str, Any]]
) -> Iterator[Difference]:
    if replayed == live:
        return
    own, other = ({_describe_place(table, row): row for row in rows} for rows in (replayed, live))
    for place in sorted(own.keys() | other.keys(), key=lambda place: _get_order(place, own, other)):
        if place not in own:
            yield Difference(table, lane, place, "row", "missing", "there")
        elif place not in other:
            yield Difference(table, lane, place, "row", "there", "missing")
        else:
            yield from _compare_members(table, lane, place, own[place], other[place])


def _get_order(place: str, own: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> tuple[int, int, str]:
    row = own.get(place) or other[place]
    return row["seq"] if place.startswith("seq ") else 0, row.get("leg", 0), place


def _describe_place(table: str, row: dict[str, Any]) -> str:
    if table == "balance":
        return f"{row['tenant']} {row['address']} {row['currency']}"
    return f"seq {row['seq']}" + (f" leg {row['leg']}" if table == "entry" else "")


def _compare_members(
    table: str, lane: int, place: str, own: dict[str, Any], other: dict[str, Any]
) -> Iterator[Difference]:
    for member, value in own.items():
        if other.get(member) != value:
            yield Difference(table, lane, place, member, _format_text(own, member), _format_text(other, member))


def _format_text(row: dict[str, Any], member: str) -> str:
    if member not in row:
        return "missing"
    value = row[member]
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)
