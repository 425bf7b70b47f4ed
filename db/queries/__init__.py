"""Named SQL: each query in these files begins with a line `-- name: <name>` and a sentence that says what it does.

A query's text ends at the next name. tests/integration/test_queries.py prepares every query against the schema.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final, LiteralString, cast

FOLDER: Final = Path(__file__).resolve().parent
_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(stem: str) -> dict[str, LiteralString]:
    """Return all queries of db/queries/<stem>.sql by name. A later KeyError means that a query is missing: a bug."""
    pieces = _NAME.split((FOLDER / f"{stem}.sql").read_text())
    names, texts = pieces[1::2], pieces[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{stem}.sql names a query twice")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}
