"""`python -m tools.supply`: the program behind `make components`, `make sbom`, `make scan` and `make digests`."""

import argparse
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from domain.errors import LedgerlineError
from runtime.settings import REPOSITORY_ROOT
from tools.supply.advisories import scan, unjudged
from tools.supply.components import Component, components
from tools.supply.images import ask_registry, pin
from tools.supply.sbom import bill_of_materials, check
from tools.supply.table import PAGE, judgements, render, rows, with_days


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Return the exit code: 1 if advisories were found, 2 if the command failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.supply", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the built parts")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("components", help="write docs/COMPONENTS.md")
    commands.add_parser("sbom", help="write the bill of materials").add_argument("file", type=Path)
    commands.add_parser("scan", help="compare all components with advisories").add_argument("advisories", type=Path)
    commands.add_parser("digests", help="write the digest of each image into the files that name it")
    given = parser.parse_args(arguments)
    try:
        return _run(given)
    except LedgerlineError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _run(given: argparse.Namespace) -> int:
    if given.command == "digests":
        for line in pin(REPOSITORY_ROOT, ask_registry):
            _say(line)
        return 0
    page = REPOSITORY_ROOT / PAGE
    known = rows(page.read_text()) if page.exists() else {}
    found = components(REPOSITORY_ROOT, given.cache.resolve(), dated=given.command == "components")
    now = datetime.now(UTC)
    if given.command == "components":
        page.write_text(render(with_days(found, known), judgements(), now.date()))
        _say(f"{PAGE}: {len(found)} components")
        return 0
    if given.command == "sbom":
        dated = [one if (day := known.get(one.key)) is None else replace(one, released=day) for one in found]
        document = bill_of_materials(dated, now)
        check(document)
        given.file.parent.mkdir(parents=True, exist_ok=True)
        given.file.write_text(json.dumps(document, indent=2) + "\n")
        _say(f"{given.file}: {len(document['components'])} components, CycloneDX {document['specVersion']}")
        return 0
    return _scan(given.advisories, found)


def _scan(place: Path, found: list[Component]) -> int:
    result = scan(place, found)
    left = unjudged(result.findings, judgements())
    for one in left:
        names = ", ".join((one.advisory, *one.aliases))
        fixed = f"fixed in {', '.join(one.fixed)}" if one.fixed else "no fix is named"
        _say(f"{one.component.part}: {one.component.name} {one.component.version}: {names}: {one.summary} ({fixed})")
    _say(
        f"{len(left)} found, {len(result.findings) - len(left)} judged before, in {result.advisories} advisories"
        f" of which the newest is of {result.newest[:10]}; {len(found)} components were held against them."
    )
    return 1 if left else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
