"""Reconciliation's queries of the ledger to judge whether a rejection was right."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection

from db.binary import Bigints, Texts
from db.books import Books, load_books
from db.queries import load
from db.reconciliation import IntentName

SQL: Final = load("rejections")

ENTRIES_MAX: Final = 1000
"""How many of an account's last entries are read in each lane."""


class HoldingAsked(NamedTuple):
    """A question about an account that a rejected intent names. Times are microseconds since 1970."""

    tenant: str
    address: str
    currency: str
    lane: int
    seq: int
    """Together with `lane`: the place of the rejection."""
    before_time: int
    """A row that another lane booked before this time was surely committed when the rejection was decided."""


class Holding(NamedTuple):
    """What an open account holds, in minor units."""

    normal_direction: int
    floor_minor: int | None
    debits_minor: int
    credits_minor: int
    """Debits and credits are over all lanes and up to now; neither ever decreases."""
    late_minor: int
    """The amount on the normal side that may have been posted after the rejection was decided."""
    is_whole: bool
    """Whether `late_minor` counts all such entries; False if ENTRIES_MAX entries of a lane do not reach back far."""


class OriginalRow(NamedTuple):
    """The row that settled an intent."""

    lane: int
    seq: int
    outcome: str
    type: str
    booked_time: int


class RecentBooks:
    """A copy of the books' current frame, loaded again when its version has changed."""

    def __init__(self) -> None:
        self._books: Books | None = None

    def load(self, connection: Connection[Any]) -> tuple[Books, int]:
        """Return the frame and the time of its last change, in microseconds since 1970."""
        ((version, changed_time),) = connection.execute(SQL["books_changed"]).fetchall()
        if self._books is None or self._books.version != version:
            self._books = load_books(connection)
        # If the frame changed between the two statements, it is newer than its time: then _NEVER makes it newer than
        # every rejection, so no rejection is judged by it.
        return self._books, changed_time if self._books.version == version else _NEVER


_NEVER: Final = 1 << 62


def find_holdings(connection: Connection[Any], asked: Sequence[HoldingAsked]) -> list[Holding | None]:
    """Return what each account holds, in the order of `asked`; None for an account that the ledger has not opened."""
    tenants, addresses, currencies, lanes, seqs, before_times = zip(*asked, strict=True)
    values = {
        "tenants": Texts(tenants),
        "addresses": Texts(addresses),
        "currencies": Texts(currencies),
        "lanes": Bigints(lanes),
        "seqs": Bigints(seqs),
        "before_times": Bigints(before_times),
        "entries_max": ENTRIES_MAX,
    }
    found: list[Holding | None] = [None] * len(asked)
    for number, direction, floor_minor, *sums, is_whole in connection.execute(SQL["holdings"], values, prepare=False):
        debits_minor, credits_minor, late_minor = map(int, sums)
        found[number - 1] = Holding(direction, floor_minor, debits_minor, credits_minor, late_minor, is_whole)
    return found


def find_originals(connection: Connection[Any], names: Sequence[IntentName]) -> dict[IntentName, OriginalRow]:
    """Return the rows that settled these intents; intents that are not settled are left out."""
    values = {"tenants": [name[0] for name in names], "intent_ids": [name[1] for name in names]}
    return {(row[0], row[1]): OriginalRow(*row[2:]) for row in connection.execute(SQL["originals"], values)}
