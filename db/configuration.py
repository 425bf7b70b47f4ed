"""Facts about the Postgres server that a login reaches, for `ledgerline config check`."""

import time
from typing import Final, NamedTuple

import psycopg

from db.queries import load

_QUERIES: Final = load("configuration")


class Server(NamedTuple):
    """The Postgres server, as a login sees it."""

    login: str
    version: str
    skew_seconds: float
    """How far the server's clock is ahead of ours."""
    asked_seconds: float
    """How long the answer took. The skew may be wrong by this much."""
    is_encrypted: bool


def query_server(dsn: str) -> Server:
    """Query the server that a DSN leads to; raise psycopg's OperationalError if it is unreachable."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = time.time()
        row = connection.execute(_QUERIES["server"]).fetchone()
        after = time.time()
    if row is None:
        raise RuntimeError("a SELECT without FROM has one row")
    login, version, clock_seconds, is_encrypted = row
    skew_seconds = clock_seconds - (before + after) / 2
    return Server(str(login), str(version), skew_seconds, after - before, bool(is_encrypted))
