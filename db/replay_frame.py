"""Restore the books' frame from the facts of ledger.frame, on the owner's connection (db.replay)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from psycopg import Connection
from psycopg.types.json import Jsonb

from db.queries import load
from domain.facts import Change, FrameKey, Part, get_fact_key, get_normal_direction

SQL: Final = load("replay_frame")
ROWS_PER_STATEMENT: Final = 5000

_PUT: Final = {
    Part.TENANT: "put_tenants",
    Part.UNIT: "put_units",
    Part.CHART: "put_charts",
    Part.ACCOUNT: "put_accounts",
}
"""In the order of the foreign keys: a tenant comes before its units, chart lines and accounts."""
_COLUMNS: Final = (
    *("chain", "seq", "part", "change", "tenant", "name", "account_class", "normal_direction", "floor_minor"),
    *("currencies", "exponent", "title", "made_time", "author", "booked_time", "hash"),
)  # fmt: skip


def read_chains(connection: Connection[Any]) -> dict[int, tuple[int, bytes]]:
    """Return chain -> next seq and head, from this database."""
    return {row[0]: (row[1], bytes(row[2])) for row in connection.execute(SQL["chains"])}


def find_fact_hash(connection: Connection[Any], chain: int, seq: int) -> bytes | None:
    """Return the hash of one fact, or None if there is no such fact."""
    row = connection.execute(SQL["fact_hash"], {"chain": chain, "seq": seq}).fetchone()
    return None if row is None else bytes(row[0])


def put_facts(connection: Connection[Any], facts: Sequence[Mapping[str, Any]], *, replace: bool) -> int:
    """Add these facts and update the tables to match, in one transaction; return the number of adopted rows.

    `replace`: `facts` are complete and replace the facts of the database. A row without a fact stays, and is adopted: a
    new fact with the author `replay` is added for it.
    """
    with connection.transaction():
        switches = connection.execute(SQL["triggers"], {}).fetchall()
        for off, _ in switches:
            connection.execute(off)
        if replace:
            connection.execute(SQL["drop_facts"])
            connection.execute(SQL["drop_chains"])
        told = [{**fact, "normal_direction": get_normal_direction(fact)} for fact in facts]
        with connection.cursor().copy(SQL["copy_facts"]) as copy:
            for fact in told:
                copy.write_row([fact[name] for name in _COLUMNS])
        for fact in {fact["chain"]: fact for fact in told}.values():
            connection.execute(SQL["move_chain"], {**fact, "next_seq": fact["seq"] + 1, "head": fact["hash"]})
        _put_rows(connection, {get_fact_key(fact): fact for fact in told})
        for _, on in switches:
            connection.execute(on)
        connection.execute(SQL["books_moved"])
        return int(connection.execute(SQL["adopt"], {"author": "replay"}).fetchall()[0][0])


def _put_rows(connection: Connection[Any], last: Mapping[FrameKey, Mapping[str, Any]]) -> None:
    for part, query in _PUT.items():
        of_part = [fact for fact in last.values() if fact["part"] == part]
        for rows in _split_pages([fact for fact in of_part if fact["change"] != Change.REMOVED]):
            connection.execute(SQL[query], {"rows": rows})
    for rows in _split_pages([fact for fact in last.values() if fact["change"] == Change.REMOVED]):
        connection.execute(SQL["drop_charts"], {"rows": rows})


def _split_pages(facts: Sequence[Mapping[str, Any]]) -> Iterator[Jsonb]:
    for first in range(0, len(facts), ROWS_PER_STATEMENT):
        page = facts[first : first + ROWS_PER_STATEMENT]
        yield Jsonb([{n: value for n, value in fact.items() if not isinstance(value, bytes)} for fact in page])
