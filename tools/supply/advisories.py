"""Compare advisories in OSV's format, from a folder or zip that was fetched before, with the third-party components.

No network is used. The format is https://ossf.github.io/osv-schema. The advisories of an ecosystem are one zip; a
checkout of an advisory database is a folder.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from univers.versions import MavenVersion

from domain.errors import LedgerlineError
from tools.supply.components import Component
from tools.supply.table import Judgement

_SUFFIXES: Final = (".json", ".yaml", ".yml")
_BEFORE_ALL: Final = "0"


@dataclass(frozen=True)
class Finding:
    """An advisory that affects a component."""

    component: Component
    advisory: str
    aliases: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """The advisory's id and its aliases."""
        return frozenset((self.advisory, *self.aliases))


@dataclass(frozen=True)
class Scan:
    """The result of comparing a set of advisories with the components."""

    advisories: int
    newest: str
    """The latest time of change of an advisory in the set, as OSV writes it."""
    findings: tuple[Finding, ...]


def scan(place: Path, found: Sequence[Component]) -> Scan:
    """Compare all advisories of a folder or zip with the components. Raise LedgerlineError if there is no advisory."""
    by_name: dict[tuple[str, str], list[Component]] = {}
    for one in found:
        by_name.setdefault((one.ecosystem, one.name), []).append(one)
    count, newest = 0, ""
    findings: list[Finding] = []
    for record in _records(place):
        count += 1
        newest = max(newest, str(record.get("modified", "")))
        if not record.get("withdrawn"):
            findings += _findings(record, by_name)
    if count == 0:
        raise LedgerlineError(
            f"{place} has no advisory in OSV's format (JSON or YAML): fetch a set, and name its place."
        )
    ordered = sorted(set(findings), key=lambda one: (one.component, one.advisory))
    return Scan(count, newest, tuple(ordered))


def unjudged(findings: Iterable[Finding], judged: Iterable[Judgement]) -> list[Finding]:
    """Return the findings that nobody has judged for that version."""
    known = {(row.component, row.version, name) for row in judged for name in row.advisories}
    return [
        one
        for one in findings
        if not any((one.component.name, one.component.version, name) in known for name in one.names)
    ]


def is_affected(ecosystem: str, version: str, affected: Mapping[str, Any]) -> bool:
    """Return whether a version is in OSV's `versions` or in one of its `ranges`. Ranges of Git commits are ignored."""
    if version in affected.get("versions", ()):
        return True
    ranges = [one for one in affected.get("ranges", ()) if one["type"] in ("ECOSYSTEM", "SEMVER")]
    return any(_is_within(ecosystem, version, one["events"]) for one in ranges)


def _is_within(ecosystem: str, version: str, events: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a version is in a range. Events are in version order: `introduced` begins it, others end it."""
    here = _ordered(ecosystem, version)
    within = False
    for event in events:
        ((kind, limit),) = ((kind, limit) for kind, limit in event.items() if kind != "limit")
        there = _ordered(ecosystem, limit)
        if kind == "introduced" and (limit == _BEFORE_ALL or here >= there):
            within = True
        elif here > there or (kind == "fixed" and here == there):
            within = False
    return within


def _ordered(ecosystem: str, version: str) -> Any:
    """Return a version as an object that compares in the order of its ecosystem."""
    if ecosystem == "Maven":
        return MavenVersion(version)
    try:
        return Version(version)
    except InvalidVersion:
        return Version(_BEFORE_ALL)  # from before PEP 440: older than every component


def _findings(record: Mapping[str, Any], by_name: Mapping[tuple[str, str], list[Component]]) -> Iterator[Finding]:
    for affected in record.get("affected", ()):
        package = affected.get("package", {})
        ecosystem, name = str(package.get("ecosystem", "")), str(package.get("name", ""))
        if ecosystem == "PyPI":
            name = canonicalize_name(name)
        for one in by_name.get((ecosystem, name), ()):
            if is_affected(ecosystem, one.version, affected):
                ends = [
                    event["fixed"]
                    for span in affected.get("ranges", ())
                    for event in span["events"]
                    if "fixed" in event
                ]
                summary = str(record.get("summary") or record.get("details", "")).strip().partition("\n")[0]
                yield Finding(one, str(record["id"]), tuple(record.get("aliases", ())), summary, tuple(ends))


def _records(place: Path) -> Iterator[Mapping[str, Any]]:
    if place.is_file() and zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            for name in sorted(archive.namelist()):
                yield from _record(name, archive.read(name) if name.endswith(_SUFFIXES) else b"")
    elif place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix == ".zip":
                yield from _records(path)
            elif path.is_file() and path.suffix in _SUFFIXES:
                yield from _record(path.name, path.read_bytes())


def _record(name: str, data: bytes) -> Iterator[Mapping[str, Any]]:
    """Yield the advisory in a file, if the file is one: an advisory has `id` and `affected`."""
    if not data:
        return
    document = json.loads(data) if name.endswith(".json") else yaml.load(data, Loader=_LOADER)  # noqa: S506 - a safe one
    if isinstance(document, dict) and "id" in document and "affected" in document:
        yield document


class _LOADER(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe YAML loader that leaves times as they are written, so that they compare as text."""


_LOADER.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _LOADER.yaml_implicit_resolvers.items()
}
