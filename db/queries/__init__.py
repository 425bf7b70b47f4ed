"""Named SQL: each query in these files begins with a line `-- name: <name>` and a sentence that says what it does.

A query's text ends at the next name. A file may say `{schema}` for the schema of the prover that loads it.
tests/integration/test_queries.py prepares every query against the schema.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final, Literal, LiteralString, cast

FOLDER: Final = Path(__file__).resolve().parent
SCHEMA: Final = "{schema}"
_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

Schema = Literal["audit", "reconciliation"]
"""The schema that only one prover writes; it has the prover's name."""


@cache
def load(stem: str, schema: Schema | None = None) -> dict[str, LiteralString]:
    """Return all queries of db/queries/<stem>.sql by name. A later KeyError means that a query is missing: a bug."""
    text = (FOLDER / f"{stem}.sql").read_text()
    if (SCHEMA in text) != (schema is not None):
        raise ValueError(f"{stem}.sql is for {'no' if schema else 'a'} prover's schema")
    pieces = _NAME.split(text.replace(SCHEMA, schema or ""))
    names, texts = pieces[1::2], pieces[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{stem}.sql names a query twice")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}
