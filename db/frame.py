"""Export and import of the books' frame: everything in the books that ledger.journal does not contain.

A frame is one JSON object: `format`, and for each part a list of rows. A row's members have the names of the columns.
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

# In the order of their foreign keys. The topics are exported and never imported.
PARTS: Final = ("tenants", "units", "chart", "accounts", "api_keys", "signing_keys", "topics")
_ADDED: Final = ("add_tenants", "add_units", "drop_chart", "add_chart", "add_accounts", "add_api_keys")
_PART_OF: Final = {"drop_chart": "chart"}


class FrameError(LedgerlineError):
    """The books cannot be exported from this database, or imported into it."""


def export_frame(connection: Connection[Any]) -> Frame:
    """Return the whole frame; it is one snapshot only if the caller has begun a repeatable read transaction."""
    parts = {part: [row[0] for row in connection.execute(SQL[part])] for part in PARTS}
    return {"format": FORMAT, **parts}


def check_frame(frame: Any) -> Frame:
    """Return `frame` unchanged; raise FrameError if it is not a frame that this release reads."""
    if not isinstance(frame, dict) or frame.get("format") != FORMAT:
        raise FrameError(f"These are no books of the format {FORMAT}: make them with `ledgerline books export`.")
    lacking = [part for part in PARTS if not isinstance(frame.get(part), list)]
    if lacking:
        raise FrameError(f"The books lack {', '.join(lacking)}: export them again with `ledgerline books export`.")
    return frame


def import_frame(connection: Connection[Any], frame: Frame, *, only_keys: bool = False) -> None:
    """Import a frame as the owner, in one transaction; open accounts and known signing keys stay as they are.

    `only_keys`: import only the keys, because all else was restored from the facts of ledger.frame.
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
    """Return whether the database has a tenant."""
    row = connection.execute(SQL["has_tenants"]).fetchone()
    return row is not None and bool(row[0])
