"""Copies of a test's whole database, like a restored backup."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from runtime.settings import Settings
from tests.proving_bench import ProvingBench


@contextmanager
def beside(dsn: str, suffix: str) -> Iterator[str]:
    """Yield the DSN of another database of the same server, not created yet.

    Drop that database at the end, even if someone is still connected.
    """
    name = f"{conninfo_to_dict(dsn)['dbname']}_{suffix}"
    try:
        yield make_conninfo(dsn, dbname=name)
    finally:
        with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def copy_of(bench: ProvingBench, suffix: str) -> Iterator[str]:
    """Yield the DSN of a copy of the bench's database as it is now; the bench's own connections are closed for it."""
    for used in bench._stores:
        used.close()
    bench.relay._store.close()
    with beside(bench.dsn, suffix) as copy:
        names = [sql.Identifier(str(conninfo_to_dict(dsn)["dbname"])) for dsn in (copy, bench.dsn)]
        with psycopg.connect(make_conninfo(bench.dsn, dbname="postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        yield copy


def settings_for(settings: Settings, dsn: str) -> Settings:
    """Return the same settings with another database."""
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})
