"""`make help` explains every target of the Makefile."""

import re
import subprocess

from runtime.settings import REPOSITORY_ROOT

MAKEFILE = (REPOSITORY_ROOT / "Makefile").read_text()


def phony_targets() -> set[str]:
    declared = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert declared is not None
    return set(declared[1].split())


def test_help_names_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True).stdout
    explained = dict(re.findall(r"^  make (\S+) +(\S.*)$", shown, re.MULTILINE))
    assert set(explained) == phony_targets()


def test_every_target_is_declared() -> None:
    written = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert written == phony_targets()


def test_a_python_that_cannot_do_it_is_told_in_one_sentence() -> None:
    asked = ["make", "--always-make", "install", "PYTHON=/bin/false"]
    refused = subprocess.run(asked, cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert refused.stderr.splitlines()[0] == (
        "Ledgerline needs Python 3.11 or later: name one with 'make install PYTHON=python3.11'."
    )
