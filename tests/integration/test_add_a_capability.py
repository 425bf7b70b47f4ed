"""docs/how-to/add-a-capability.md leads from this repository to passing tests: its steps are done in a copy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ops.embedded.stack import Endpoints
from runtime.settings import REPOSITORY_ROOT

PAGE: Final = REPOSITORY_ROOT / "docs" / "how-to" / "add-a-capability.md"
_NEW: Final = re.compile(r"`(?P<path>[^`]+)`, new:")
_CHANGED: Final = re.compile(r"`(?P<path>[^`]+)`, changed(?P<in_line> in a line)?:")
_APPENDED: Final = re.compile(r"`(?P<path>[^`]+)`, at its end: the text of `(?P<source>[^`]+)`\.")
_LANGUAGES: Final = {".py": "python", ".sql": "sql", ".avsc": "json"}
# The page's own tests, and the checks of the repository that a wrong step would fail first.
RUN: Final = (
    "tests/unit/test_notes.py",
    "tests/integration/test_notes.py",
    "tests/unit/test_capabilities.py",
    "tests/unit/test_kafka_rights.py",
    "tests/contract/test_schemas.py",
    "tests/migration/test_migrations.py::test_migrations_add_up_to_the_schema",
    "tests/migration/test_rights.py::test_each_role_may_do_what_the_table_says_and_no_more",
)


class Step(NamedTuple):
    """One thing that the page asks for. `block` is empty if the file's new end is the text of `source`."""

    path: str
    language: str
    block: list[str]
    is_in_line: bool = False
    source: str = ""


def list_steps(text: str) -> Iterator[Step]:
    """Yield the steps of the page. Raise StopIteration if a step lacks its block."""
    lines = iter(text.splitlines())
    for line in lines:
        if appended := _APPENDED.fullmatch(line):
            yield Step(appended["path"], "", [], source=appended["source"])
        elif found := _NEW.fullmatch(line) or _CHANGED.fullmatch(line):
            fence = next(line for line in lines if line)
            assert fence.startswith("```"), f"{found[0]} has no block"
            block = []
            for inside in lines:
                if inside == "```":
                    break
                block.append(inside)
            yield Step(found["path"], fence.removeprefix("```"), block, bool(found.groupdict().get("in_line")))


def change(text: str, step: Step) -> str:
    """Return a file's text after a change. What the block takes away or shows as the place must be there once."""
    assert step.language == "diff"
    old, new = ([line[1:] for line in step.block if line[0] in signs] for signs in (" -", " +"))
    if step.is_in_line:
        before, after = "\n".join(old), "\n".join(new)
    else:
        before, after = ("".join(f"{line}\n" for line in part) for part in (old, new))
    assert text.count(before) == 1, f"{step.path} has {text.count(before)} places like {before!r}"
    return text.replace(before, after)


def follow(step: Step, folder: Path) -> None:
    """Do one step in a copy of the repository."""
    path = folder / step.path
    if step.source:
        path.write_text(path.read_text() + "\n" + (folder / step.source).read_text())
    elif step.language == "diff":
        path.write_text(change(path.read_text(), step))
    else:
        assert step.language == _LANGUAGES[path.suffix]
        assert not path.exists(), f"{step.path} is not new"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in step.block))


def copy_repository(folder: Path) -> None:
    """Copy the files that git tracks, and new files that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        source = REPOSITORY_ROOT / name
        if name and source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def test_the_page_leads_to_passing_tests(stack: Endpoints, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    copy_repository(folder)
    steps = list(list_steps(PAGE.read_text()))
    assert {step.path for step in steps} > {"domain/notes.py", "db/notes.py", "streams/notes.py", "db/schema.sql"}
    for step in steps:
        follow(step, folder)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGERLINE_", "PYTEST_"))}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *RUN],
        cwd=folder,
        env=inherited
        | {
            "LEDGERLINE_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
            "LEDGERLINE_POSTGRES_DSN": stack.postgres_dsn,
            "LEDGERLINE_REGISTRY_URL": stack.registry_url,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=160,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert re.search(r"^\d+ passed", ran.stdout.splitlines()[-1]), ran.stdout[-2000:]


def test_a_change_without_its_place_is_noticed() -> None:
    step = Step("a.py", "diff", [" one", "-two", "+three"])
    assert change("zero\none\ntwo\n", step) == "zero\none\nthree\n"
    with pytest.raises(AssertionError, match=r"a\.py has 0 places"):
        change("two\n", step)
    with pytest.raises(AssertionError, match=r"a\.py has 2 places"):
        change("x, two, y, two", step._replace(block=["-two", "+three"], is_in_line=True))


def test_the_page_has_no_block_that_nobody_follows() -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```(python|sql|json|diff)$", text, re.MULTILINE)
    assert len(blocks) == sum(1 for step in list_steps(text) if step.block) > 10
