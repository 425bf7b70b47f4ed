"""Errors of libraries, as sentences for people.

A library is looked up among the loaded modules only: a library that was never imported has raised no error, and the
command line starts faster without the import.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

from domain.errors import LedgerlineError


def _explain_postgres(psycopg: Any, error: BaseException) -> str | None:
    if not isinstance(error, psycopg.Error):
        return None
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
        return f"The database lacks what this command reads ({cause}): run `ledgerline prepare`."
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"This login may not do that ({cause}): grant it the role ledgerline_operator."
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return "LEDGERLINE_POSTGRES_DSN cannot be used: write it as postgresql://user:password@host/database."
    if isinstance(error, psycopg.DataError):
        return f"Postgres cannot take a value that was given ({cause})."
    if isinstance(error, psycopg.OperationalError):
        return f"Postgres does not answer ({cause}): see `ledgerline status`."
    return None


def _explain_kafka(confluent_kafka: Any, error: BaseException) -> str | None:
    if not isinstance(error, confluent_kafka.KafkaException):
        return None
    cause = error.args[0]
    told = cause.str() if isinstance(cause, confluent_kafka.KafkaError) else str(cause)
    return f"Kafka does not answer ({told}): see `ledgerline status`."


def _explain_http(httpx: Any, error: BaseException) -> str | None:
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return f"An address cannot be used ({error}): `ledgerline config check` says which."
    if not isinstance(error, httpx.HTTPError):
        return None
    return f"A service does not answer ({error or type(error).__name__}): see `ledgerline status`."


_LIBRARIES: Final[dict[str, Callable[[Any, BaseException], str | None]]] = {
    "psycopg": _explain_postgres,
    "confluent_kafka": _explain_kafka,
    "httpx": _explain_http,
}


def make_sentence(error: BaseException) -> str | None:
    """Return one sentence for an outage, a missing right or an unusable file; None for an unknown error: a bug."""
    if isinstance(error, LedgerlineError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}."
    for name, explain in _LIBRARIES.items():
        library = sys.modules.get(name)
        sentence = explain(library, error) if library is not None else None
        if sentence is not None:
            return sentence
    return None


def make_usage_sentence(error: Any) -> str:
    """Return what is wrong with an argument, and where the help is; `error` is one of typer's errors."""
    told = " ".join(error.format_message().split())
    told = told if told.endswith((".", "?")) else f"{told}."
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "ledgerline"
    return f"{told[0].upper()}{told[1:]} See {path} --help."
