"""The number of this release. It is defined only here; pyproject.toml, the API and every Postgres session show it."""

from typing import Final

VERSION: Final = "0.2.0"
"""By Semantic Versioning 2.0.0."""


def parse_version(version: str) -> tuple[int, ...]:
    """Return a version as numbers, so that 0.10.0 sorts after 0.9.0. Raise ValueError if it is not a version."""
    return tuple(int(part) for part in version.split("."))
