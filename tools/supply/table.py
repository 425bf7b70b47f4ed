"""docs/COMPONENTS.md: the table of third-party components with release days, and the judged advisories."""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Final

from domain.errors import LedgerlineError
from tools.supply.components import Component

PAGE: Final = Path("docs") / "COMPONENTS.md"
JUDGED: Final = Path(__file__).parent / "judged.json"
_ROW: Final = re.compile(r"^\| ((?:`[^`]+` )+)\| ([^|]+) \| (\d{4}-\d\d-\d\d|not told) \|$", re.MULTILINE)
_ASKED_WITH: Final = "uv==0.13.9"
_ASK_SECONDS: Final = 300

_HEAD: Final = """\
# Components: what others wrote, and how old it is

Written by `make components`, as of {day}; a test holds it. A part is what needs a component: the services, the
`embedded` and `import` extras, development and tests alone, a part that `make parts` builds, or an image of others. The
day is that of a package's first file in the index, or of the newest file in a jar, if its builder tells it. `make scan`
looks for advisories, `make sbom` writes all of this as CycloneDX ([decision 24](decisions/0024-supply-chain.md)).

## Judged

Known advisories, and why each component is carried all the same. `make scan` leaves these out.

| component | version | advisory | judged |
|---|---|---|---|
"""
_CARRIED: Final = "\n## Carried\n"
_TABLE: Final = """
### {part}

| components | version | released |
|---|---|---|
"""


@dataclass(frozen=True)
class Judgement:
    """An advisory of a component that is used nevertheless, and the reason."""

    component: str
    version: str
    advisories: tuple[str, ...]
    verdict: str


def judgements(path: Path = JUDGED) -> list[Judgement]:
    """Return the judgements in the order of the file."""
    rows = json.loads(path.read_text())
    return [Judgement(row["component"], row["version"], tuple(row["advisories"]), row["verdict"]) for row in rows]


def rows(page: str) -> dict[tuple[str, str, str], str | None]:
    """Return the release day of each (part, component, version) in a page; None if the page does not tell it."""
    found: dict[tuple[str, str, str], str | None] = {}
    for section in page.partition(_CARRIED)[2].split("\n### ")[1:]:
        part = section.partition("\n")[0]
        for names, version, day in _ROW.findall(section):
            found |= {
                (part, name, version): None if day == "not told" else day for name in re.findall("`(.+?)`", names)
            }
    return found


def render(found: Iterable[Component], judged: Sequence[Judgement], today: date) -> str:
    """Return the whole page. Within a part, the oldest component is first, and those without a day are last.

    Components of one part, family, version and day share a row; the family of a jar is its group.
    """
    lines = [f"| `{row.component}` | {row.version} | {', '.join(row.advisories)} | {row.verdict} |" for row in judged]
    page = _HEAD.format(day=today.isoformat()) + "".join(f"{line}\n" for line in lines) + _CARRIED
    families: dict[tuple[str, str, str, str], list[str]] = {}
    for one in sorted(found, key=lambda one: (one.part, one.released or "9999", one.name, one.version)):
        family = one.name.partition(":")[0] if ":" in one.name else ""
        families.setdefault((one.part, one.released or "not told", one.version, family), []).append(one.name)
    for part, rows_of_part in groupby(families.items(), key=lambda item: item[0][0]):
        page += _TABLE.format(part=part)
        for (_, day, version, _), names in rows_of_part:
            page += f"| {' '.join(f'`{name}`' for name in names)} | {version} | {day} |\n"
    return page


def with_days(found: Sequence[Component], known: Mapping[tuple[str, str, str], str | None]) -> Iterator[Component]:
    """Yield the components with release days. Days that `known` lacks come from the package index."""
    days = {(name, version): day for (_, name, version), day in known.items() if day is not None}
    missing = [
        one for one in found if one.ecosystem == "PyPI" and not one.released and (one.name, one.version) not in days
    ]
    days |= _ask_index(missing)
    for one in found:
        yield replace(one, released=one.released or days.get((one.name, one.version)))


def _ask_index(packages: Sequence[Component]) -> dict[tuple[str, str], str]:
    """Ask pip's index for the release day of each package, with uv in a temporary environment."""
    if not packages:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = folder / "wanted.txt"
        wanted.write_text("".join(f"{one.name}=={one.version}\n" for one in packages))
        python = folder / "environment" / "bin" / "python"
        _run(sys.executable, "-m", "venv", str(folder / "environment"))
        _run(str(python), "-m", "pip", "install", "--quiet", _ASKED_WITH)
        locked = folder / "pylock.toml"
        _run(str(python.parent / "uv"), "pip", "compile", "--quiet", "--no-deps", str(wanted), "-o", str(locked))
        document = tomllib.loads(locked.read_text())
    found = {}
    for package in document["packages"]:
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        days = sorted(file["upload-time"].date().isoformat() for file in files if "upload-time" in file)
        if days:
            found[package["name"], package["version"]] = days[0]
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise LedgerlineError(
            f"The package index did not tell the age of new packages ({last}): run this on a machine that reaches it."
        )
