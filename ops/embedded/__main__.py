"""Build the embedded parts' jars into a cache folder: `python -m ops.embedded .ledgerline/cache` (`make parts`)."""

import argparse
import sys
from pathlib import Path

from ops.embedded.cache import KAFKA, KAFKA_EXPORTER, REGISTRY, Cache
from ops.embedded.errors import EmbeddedError


def main() -> int:
    """Build what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.embedded", description=__doc__)
    parser.add_argument("folder", type=Path, help="the cache's folder, such as .ledgerline/cache")
    cache = Cache(parser.parse_args().folder.resolve(), report=_say)
    try:
        for recipe in (KAFKA, KAFKA_EXPORTER, REGISTRY):
            _say(f"{recipe.name}: {cache.get(recipe)}")
    except EmbeddedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
