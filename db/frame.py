"""The frame of the books, out of one database and into another: all that ledger.journal does not say.

A frame is one JSON object: `format`, and for each part a list of rows whose members are named as the table's columns.
"""

from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from db.queries import load
from domain.errors import LedgerlineError

SQL: Final = load("frame")

FORMAT: Final = "ledgerline-books-1"
Frame = dict[str, Any]
"""`format`, and the parts of PARTS, each a list of objects."""

# In the order in which they refer to each other; the topics are only read.
PARTS: Final = ("tenants", "units", "chart", "accounts", "api_keys", "signing_keys", "topics")
_ADDED: Final = ("add_tenants", "add_units", "drop_chart", "add_chart", "add_accounts", "add_api_keys")
_PART_OF: Final = {"drop_chart": "chart"}


class FrameError(LedgerlineError):
    """The books cannot be taken out of this database, or put into this one."""


def export_frame(connection: Connection[Any]) -> Frame:
    """The whole frame, in one transaction's sight if the caller holds one (repeatable read)."""
    parts = {part: [row[0] for row in connection.execute(SQL[part])] for part in PARTS}
    return {"format": FORMAT, **parts}


def check_frame(frame: Any) -> Frame:
    """The same, if it is a frame; FrameError where it is none that this release reads."""
    if not isinstance(frame, dict) or frame.get("format") != FORMAT:
        raise FrameError(f"These are no books of the format {FORMAT}: make them with `ledgerline books export`.")
    lacking = [part for part in PARTS if not isinstance(frame.get(part), list)]
    if lacking:
        raise FrameError(f"The books lack {', '.join(lacking)}: make them anew with `ledgerline books export`.")
    return frame


def import_frame(connection: Connection[Any], frame: Frame, *, only_keys: bool = False) -> None:
    """Make the database's frame this one, as the owner; what is open, or signed, stays as it is. One transaction.

    `only_keys`: the facts of ledger.frame have told all but the keys.
    """
    try:
        with connection.transaction():
            for name in ("add_api_keys",) if only_keys else _ADDED:
                part = _PART_OF.get(name, name.removeprefix("add_"))
                connection.execute(SQL[name], {"rows": Jsonb(frame[part])})
            connection.execute(SQL["add_signing_keys"], {"rows": Jsonb(frame["signing_keys"])})
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        cause = str(error).strip().splitlines()[0]
        raise FrameError(
            f"Postgres refuses the books ({cause}): take them as `ledgerline books export` wrote them."
        ) from error


def has_frame(connection: Connection[Any]) -> bool:
    """Whether the database has a tenant."""
    row = connection.execute(SQL["has_tenants"]).fetchone()
    return row is not None and bool(row[0])
