"""Judge a running ledger from the command line.

Exit code 0: all checks hold; 1: a check does not hold; 2: the ledger cannot be read.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from tools.chaos.oracle.judge import judge
from tools.chaos.oracle.model import OracleError, Place

ADDRESSES = {
    "kafka-bootstrap": ("LEDGERLINE_KAFKA_BOOTSTRAP", "host and port of a Kafka broker"),
    "postgres-dsn": ("LEDGERLINE_POSTGRES_DSN", "a role that can read all schemas"),
    "registry-url": ("LEDGERLINE_REGISTRY_URL", "the schema registry, up to and without /schemas"),
    "topic-prefix": ("LEDGERLINE_TOPIC_PREFIX", "what stands before every topic's name"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the ledger, print the faults and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos.oracle",
        description="Judge a ledger at rest from raw reads. Exit code 0: all holds; 1: not; 2: it cannot be read.",
    )
    for name, (variable, what) in ADDRESSES.items():
        parser.add_argument(f"--{name}", default=os.environ.get(variable, ""), help=f"{what} [{variable}]")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    given = parser.parse_args(arguments)
    place = Place(given.kafka_bootstrap, given.postgres_dsn, given.registry_url, given.topic_prefix)
    missing = [f"--{name}" for name in ADDRESSES if name != "topic-prefix" and not vars(given)[name.replace("-", "_")]]
    if missing:
        parser.error(f"say where the ledger is: {', '.join(missing)}")
    try:
        verdict = judge(place, ())
    except OracleError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if given.json:
        faults = [fault._asdict() for fault in verdict.faults]
        answer = {"holds": verdict.holds, "faults": faults, "counts": verdict.counts, "seconds": verdict.seconds}
        sys.stdout.write(f"{json.dumps(answer)}\n")
    else:
        for fault in verdict.faults:
            sys.stdout.write(f"{fault.check}: {fault.where}: {fault.detail}\n")
        counts = ", ".join(f"{count} {name}" for name, count in verdict.counts.items() if count)
        state = "All holds" if verdict.holds else "Not all holds"
        sys.stdout.write(f"{state}, judged in {verdict.seconds:.1f} s: {counts or 'nothing'}.\n")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
