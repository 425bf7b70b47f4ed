"""Which release this is: the one home of its number, which pyproject.toml, the API and every Postgres session show."""

from typing import Final

VERSION: Final = "0.2.0"
"""By Semantic Versioning 2.0.0."""


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers, so that 0.10.0 comes after 0.9.0; ValueError for what is none."""
    return tuple(int(part) for part in version.split("."))
