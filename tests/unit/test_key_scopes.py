"""`ledgerline keys add` gives exactly the scopes that its caller names."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands.keys import MEANINGS, parse_scopes
from db.access import AccessError, Scope
from runtime.settings import REPOSITORY_ROOT
from tests.command_line import run

SCOPES = [
    ("intents:write", [Scope.INTENTS_WRITE]),
    (" intents:write  intents:read ", [Scope.INTENTS_WRITE, Scope.INTENTS_READ]),
    ("journal:read,operations:read", [Scope.JOURNAL_READ, Scope.OPERATIONS_READ]),
    ("", "A key without a scope can do nothing: name some of intents:write"),
    ("all", "'all' is no scope: name some of intents:write"),
    ("intents:write root", "'root' is no scope"),
]


@pytest.mark.parametrize(("answer", "expected"), SCOPES, ids=[answer or "nothing" for answer, _ in SCOPES])
def test_scopes_are_read_from_an_answer(answer: str, expected: list[Scope] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(AccessError, match=expected):
            parse_scopes(answer)
    else:
        assert parse_scopes(answer) == expected


def test_every_scope_is_explained() -> None:
    assert set(MEANINGS) == set(Scope)


def test_a_script_that_names_no_scope_is_refused(tmp_path: Path) -> None:
    done = run({"LEDGERLINE_HOME": str(tmp_path), "COLUMNS": "160"}, "keys", "add", "x", "--json", code=1)
    assert done.stdout == ""
    assert "Name the key's scopes, one --scope for each: intents:write," in done.stderr


@pytest.mark.parametrize(
    ("answer", "expected"), [("everything", "'everything' is no scope"), ("intents:write", "No ledger is running here")]
)
def test_a_person_at_a_terminal_is_asked(tmp_path: Path, answer: str, expected: str) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "cli", "keys", "add", "x"],
            cwd=REPOSITORY_ROOT,
            env={**os.environ, "LEDGERLINE_HOME": str(tmp_path), "COLUMNS": "160"},
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert "What may the key do?" in done.stderr
    assert "operations:read  see all tenants' sums and breaks; for operators" in done.stderr
    assert expected in done.stderr
