"""The table of components matches what is installed, images are pinned, and scan and bill of materials are correct."""

import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from domain.errors import LedgerlineError
from runtime.settings import REPOSITORY_ROOT
from tools.supply.__main__ import main
from tools.supply.advisories import is_affected, scan, unjudged
from tools.supply.components import Component, components, released_day
from tools.supply.images import ask_registry, files, pin, references
from tools.supply.sbom import bill_of_materials, check
from tools.supply.table import PAGE, Judgement, judgements, render, rows

CACHE = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def carried() -> list[Component]:
    return components(REPOSITORY_ROOT, CACHE)


# ------------------------------------------------------------------------------------------------ the table


def test_the_table_is_what_is_carried(carried: list[Component]) -> None:
    """`make components` writes the table anew after a version changed."""
    of_other_machines = re.compile(r"linux|osx|native")  # jars with code for one kind of machine
    written = {key for key in rows((REPOSITORY_ROOT / PAGE).read_text()) if not of_other_machines.search(key[1])}
    assert written == {one.key for one in carried if not of_other_machines.search(one.name)}
    assert {one.part for one in carried} >= {
        "service",
        "embedded",
        "import",
        "development",
        "kafka",
        "registry",
        "image",
    }


def test_what_was_judged_is_carried_and_shown(carried: list[Component]) -> None:
    page = (REPOSITORY_ROOT / PAGE).read_text()
    for row in judgements():
        assert (row.component, row.version) in {(one.name, one.version) for one in carried}
        assert f"| `{row.component}` | {row.version} | {', '.join(row.advisories)} | {row.verdict} |" in page


def test_services_need_what_the_project_names_and_no_tool_of_development(carried: list[Component]) -> None:
    by_part: dict[str, set[str]] = {}
    for one in carried:
        by_part.setdefault(one.part, set()).add(one.name)
    assert by_part["service"] >= {"fastapi", "starlette", "psycopg-binary", "confluent-kafka", "attrs"}
    assert by_part["development"] >= {"pytest", "mypy", "univers"}
    assert by_part["import"] >= {"beancount"}


def test_a_page_is_read_as_it_was_written() -> None:
    found = [
        Component("service", "PyPI", "young", "2", "2026-11-01"),
        Component("service", "PyPI", "old", "1", "2024-11-28"),
        Component("registry", "Maven", "group:artifact", "1.0.Final"),
        Component("registry", "Maven", "group:other", "1.0.Final"),
        Component("registry", "Maven", "strangers:artifact", "1.0.Final"),
    ]
    page = render(found, [Judgement("old", "1", ("CVE-1",), "Not reached.")], date(2026, 11, 28))
    assert rows(page) == {one.key: one.released for one in found}
    assert page.index("| `old` | 1 | 2024-11-28 |") < page.index("`young`")
    assert "| `group:artifact` `group:other` | 1.0.Final | not told |\n| `strangers:artifact` | 1.0.Final |" in page
    assert "| `old` | 1 | CVE-1 | Not reached. |" in page


@pytest.mark.parametrize(
    ("times", "day"),
    [
        ([(2025, 3, 4, 5, 6, 8), (2025, 3, 2, 0, 0, 0)], "2025-03-04"),
        ([(1980, 2, 1, 0, 0, 0)], None),
        ([(2010, 1, 1, 0, 0, 0)], None),
        ([], None),
    ],
)
def test_the_age_of_a_jar(times: list[tuple[int, int, int, int, int, int]], day: str | None, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.jar", "w") as jar:
        for number, time in enumerate(times):
            jar.writestr(zipfile.ZipInfo(f"{number}.class", time), b"")
    assert released_day(tmp_path / "a.jar") == day


# ------------------------------------------------------------------------------------------------ the scan


def span(*events: Mapping[str, str], kind: str = "ECOSYSTEM") -> dict[str, Any]:
    return {"ranges": [{"type": kind, "events": list(events)}]}


ZERO = {"introduced": "0"}


@pytest.mark.parametrize(
    ("ecosystem", "version", "affected", "is_so"),
    [
        ("PyPI", "1.9", span(ZERO, {"fixed": "1.10"}), True),
        ("PyPI", "1.10", span(ZERO, {"fixed": "1.10"}), False),
        ("PyPI", "1.10rc1", span(ZERO, {"fixed": "1.10"}), True),
        ("PyPI", "1.10", span(ZERO, {"last_affected": "1.10"}), True),
        ("PyPI", "1.11", span(ZERO, {"last_affected": "1.10"}), False),
        ("PyPI", "1.0", span({"introduced": "1.1"}, {"fixed": "1.3"}), False),
        ("PyPI", "2.5", span(ZERO, {"fixed": "1.3"}, {"introduced": "2.0"}, {"fixed": "2.6"}), True),
        ("PyPI", "1.5", span(ZERO, {"fixed": "1.3"}, {"introduced": "2.0"}, {"fixed": "2.6"}), False),
        ("PyPI", "9", span({"introduced": "1.1"}), True),
        ("PyPI", "1.0", {"versions": ["1.0"]}, True),
        ("PyPI", "1.0", {"versions": ["1.1"]}, False),
        ("PyPI", "1.0", span(ZERO, kind="GIT"), False),
        ("PyPI", "1.0", {}, False),
        ("Maven", "2.1.214", span({"introduced": "1.4.197"}, {"fixed": "2.2.220"}), True),
        ("Maven", "4.1.86.Final", span(ZERO, {"fixed": "4.1.100.Final"}), True),
        ("Maven", "4.1.137.Final", span(ZERO, {"fixed": "4.1.100.Final"}), False),
        ("Maven", "33.8.0-jre", span(ZERO, {"fixed": "32.0.0-android"}), False),
        ("Maven", "31.1-jre", span(ZERO, {"fixed": "32.0.0-android"}), True),
        ("Maven", "3.0.0-RC1", span(ZERO, {"fixed": "3.0.0"}), True),
    ],
)
def test_an_advisory_is_of_the_versions_that_it_names(
    ecosystem: str, version: str, affected: Mapping[str, Any], is_so: bool
) -> None:
    assert is_affected(ecosystem, version, affected) is is_so


FOUND = [
    Component("service", "PyPI", "zope-interface", "1.0"),
    Component("registry", "Maven", "com.h2database:h2", "2.1.214"),
]
H2 = {
    "id": "GHSA-22wj-vf5f-wrvj",
    "modified": "2026-11-20T10:00:00Z",
    "aliases": ["CVE-2022-45868"],
    "summary": "Password exposure",
    "affected": [
        {
            "package": {"ecosystem": "Maven", "name": "com.h2database:h2"},
            **span({"introduced": "1.4.198"}, {"fixed": "2.2.220"}),
        }
    ],
}
ZOPE = """\
id: PYSEC-2026-1
modified: 2026-11-21T10:00:00.123Z
details: |
  A first line.
  A second one.
affected:
- package: {ecosystem: PyPI, name: zope.interface}
  ranges:
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: "1.1"}]
"""


def test_a_folder_and_a_zip_of_advisories_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "advisories"
    (folder / "vulns" / "zope").mkdir(parents=True)
    (folder / "vulns" / "zope" / "PYSEC-2026-1.yaml").write_text(ZOPE)
    (folder / "README.yaml").write_text("nothing: of the kind\n")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("GHSA-22wj-vf5f-wrvj.json", json.dumps(H2))
        archive.writestr("gone.json", json.dumps(H2 | {"id": "gone", "withdrawn": "2026-01-01T00:00:00Z"}))
    result = scan(folder, FOUND)
    assert (result.advisories, result.newest) == (3, "2026-11-21T10:00:00.123Z")
    assert [(one.advisory, one.summary, one.fixed) for one in result.findings] == [
        ("GHSA-22wj-vf5f-wrvj", "Password exposure", ("2.2.220",)),
        ("PYSEC-2026-1", "A first line.", ("1.1",)),
    ]
    left = unjudged(result.findings, [Judgement("com.h2database:h2", "2.1.214", ("CVE-2022-45868",), "Not started.")])
    assert [one.advisory for one in left] == ["PYSEC-2026-1"]
    assert len(unjudged(result.findings, [Judgement("com.h2database:h2", "2.1.0", ("CVE-2022-45868",), "")])) == 2


def test_a_folder_without_advisories_is_no_clean_scan(tmp_path: Path) -> None:
    with pytest.raises(LedgerlineError, match="has no advisory in OSV's format"):
        scan(tmp_path, FOUND)


def test_the_scan_says_what_is_found_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = H2 | {
        "id": "GHSA-made-up",
        "aliases": [],
        "affected": [{"package": {"ecosystem": "PyPI", "name": "FastAPI"}, **span(ZERO)}],
    }
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "b.json").write_text(json.dumps(H2))
    assert main(["--cache", str(CACHE), "scan", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert re.search(r"^service: fastapi \S+: GHSA-made-up: Password exposure \(no fix is named\)$", told, re.MULTILINE)
    assert "1 found, 1 judged before, in 2 advisories of which the newest is of 2026-11-20" in told
    assert main(["--cache", str(CACHE), "scan", str(tmp_path / "nowhere")]) == 2


# ------------------------------------------------------------------------------------------------ the bill of materials


def test_the_bill_of_materials_follows_its_schema(carried: list[Component]) -> None:
    document = bill_of_materials(carried, datetime(2026, 11, 29, tzinfo=UTC))
    check(document)
    named = {one["purl"] for one in document["components"]}
    assert named == {one.package_url for one in carried}
    assert any(url.startswith("pkg:maven/com.h2database/h2@") for url in named)
    wants = {row["ref"]: row["dependsOn"] for row in document["dependencies"]}
    (fastapi,) = (url for url in named if url.startswith("pkg:pypi/fastapi@"))
    assert any(url.startswith("pkg:pypi/starlette@") for url in wants[fastapi])
    del document["components"][0]["name"]
    with pytest.raises(LedgerlineError, match="does not follow CycloneDX's schema"):
        check(document)


# ------------------------------------------------------------------------------------------------ the images


def test_each_image_is_pinned_or_listed_with_the_reason() -> None:
    section = (REPOSITORY_ROOT / "docs" / "SECURITY.md").read_text().partition("## What it is made of")[2]
    listed = set(re.findall(r"^\| `([\w./-]+):([\w.-]+)` \| \S.+ \|$", section, re.MULTILINE))
    found = references(REPOSITORY_ROOT)
    assert {(one.name, one.tag) for one in found if not one.digest} == listed
    assert sum(bool(one.digest) for one in found) >= 5
    assert len({(one.name, one.tag) for one in found}) == len(found), "one digest for one tag"


def test_digests_are_written_wherever_a_tag_is(tmp_path: Path) -> None:
    for path in files(REPOSITORY_ROOT):
        copied = tmp_path / path.relative_to(REPOSITORY_ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text())
    told = pin(tmp_path, lambda _reference: DIGEST)
    assert told
    assert {one.digest for one in references(tmp_path)} == {DIGEST}
    assert f"ARG PYTHON=3.11.14-slim-trixie@{DIGEST}\n" in (tmp_path / "ops/docker/Dockerfile").read_text()
    assert [(one.name, one.tag) for one in references(tmp_path)] == [
        (one.name, one.tag) for one in references(REPOSITORY_ROOT)
    ]
    assert pin(tmp_path, lambda _reference: DIGEST) == []


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"echo {DIGEST}", DIGEST),
        ("echo no such host >&2; exit 1", r"crane has no digest of a/b:1 \(no such host\)"),
        ("echo sha256:short", r"crane has no digest of a/b:1 \(sha256:short\)"),
        (None, "crane, skopeo or docker with buildx is needed"),
    ],
)
def test_a_registry_is_asked_by_a_client(
    script: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        client = tmp_path / "crane"
        client.write_text(f"#!/bin/sh\n{script}\n")
        client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    if told == DIGEST:
        assert ask_registry("a/b:1") == DIGEST
    else:
        with pytest.raises(LedgerlineError, match=told):
            ask_registry("a/b:1")
