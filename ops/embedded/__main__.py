"""Fetch and build the parts that are not Python, into a cache folder: `python -m ops.embedded .ledgerline/cache`.

This is `make parts`. Kafka and the Schema Registry are built with Maven. Prometheus and its exporters are fetched from
Debian if the machine has none. A ledger runs without these two, so the command only warns if it cannot get them.
"""

import argparse
import sys
from pathlib import Path

from ops.embedded.cache import KAFKA, KAFKA_EXPORTER, POSTGRES_TLS, REGISTRY, Cache
from ops.embedded.errors import EmbeddedError
from ops.observing.programs import PROGRAMS, Programs


def main() -> int:
    """Build what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.embedded", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the cache, such as .ledgerline/cache")
    folder = parser.parse_args().folder.resolve()
    cache = Cache(folder, report=_say)
    try:
        for recipe in (KAFKA, KAFKA_EXPORTER, REGISTRY, POSTGRES_TLS):
            _say(f"{recipe.name}: {cache.get(recipe)}")
    except EmbeddedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    programs = Programs(folder, _say)
    for program in PROGRAMS:
        try:
            _say(f"{program.names[0]}: {programs.find(program)}")
        except EmbeddedError as error:
            _say(f"{program.names[0]} is left out: `ledgerline observe` needs it. {error}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
