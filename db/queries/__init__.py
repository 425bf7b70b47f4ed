"""Named SQL: each file here holds queries under a line `-- name: <name>` and a sentence of what it does.

A query's text is all up to the next name. tests/integration/test_queries.py prepares every one against the schema.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final, LiteralString, cast

FOLDER: Final = Path(__file__).resolve().parent
_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(stem: str) -> dict[str, LiteralString]:
    """All queries of db/queries/<stem>.sql by name; KeyError later means that a query is missing, a bug."""
    pieces = _NAME.split((FOLDER / f"{stem}.sql").read_text())
    names, texts = pieces[1::2], pieces[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{stem}.sql names a query twice")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}
