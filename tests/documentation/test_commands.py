"""Every command in a document is run as a reader would run it, and must print what the document shows.

NOT_RUN has the commands that are not run, with the reason. A reason without a command fails.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from runtime.settings import REPOSITORY_ROOT
from tests.documentation.sessions import Step, difference, steps
from tests.documentation.shell import Shell

# Keys are regular expressions for the beginning of the command.
NOT_RUN: Final = {
    r"make demo$": "tests/acceptance runs the demo",
    r"make (test|check|chaos|bounds|simulate|install|parts)\b": "the gate (.ci/run) runs them, or what they call",
    r"make long\b": "the tests of minutes, which the gate has no time for",
    r"export LEDGERLINE_": "addresses of a real cluster; tests/integration/test_secured.py goes in this way",
    r"docker compose\b": "no Docker engine is at hand; tests/unit/test_compose.py checks the file",
    r"make (load|observe|down|demo KEEP=1)\b": "tests of the load, of what watches and of the demo do",
    r"kubectl\b|terraform\b": "no cluster and no cloud is at hand; tests/unit checks the files",
    r"psql\b|pg_restore\b": "tests/integration/test_restore.py follows that runbook",
    r"ledgerline (replay|books export)\b": "tests/integration/test_replay.py and test_replay_books.py do",
}
DOCUMENTS: Final = sorted(
    str(path.relative_to(REPOSITORY_ROOT))
    for folder, pattern in (
        (REPOSITORY_ROOT, "*.md"),
        (REPOSITORY_ROOT / "docs", "**/*.md"),
        (REPOSITORY_ROOT / "ops", "**/*.md"),
    )
    for path in folder.glob(pattern)
    if "decisions" not in path.parts
)
# The commands of these documents start and stop the ledger themselves; the other documents use a running one.
OWN_LEDGER: Final = ("README.md",)


def reason_not_to_run(step: Step) -> str | None:
    """Return why this command is not run here; None if it is run."""
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, step.bare)), None)


def steps_of(name: str) -> list[Step]:
    """Return all steps of a document."""
    return list(steps(REPOSITORY_ROOT / name, name))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell without a ledger."""
    made = Shell(tmp_path / "checkout")
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with a running ledger, one for all documents."""
    made = Shell(tmp_path_factory.mktemp("documents") / "checkout")
    code, printed = made.run("ledgerline up")
    assert code == 0, printed
    yield made
    made.close()


def follow(shell: Shell, name: str) -> None:
    """Run a document's commands in order; fail at the first that fails or prints something else."""
    for step in steps_of(name):
        if reason_not_to_run(step) is not None:
            continue
        code, printed = shell.run(step.command)
        expected = int(match[1]) if (match := re.search(r"# exits with (\d+)", step.command)) else 0
        assert code == expected, f"{step} ended with {code}: {' '.join(printed)}"
        other = difference(step.shown, printed)
        assert other is None, f"{step}: {other}. It printed:\n" + "\n".join(printed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OWN_LEDGER)
def test_a_newcomer_can_follow(name: str, shell: Shell) -> None:
    follow(shell, name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in DOCUMENTS
        if name not in OWN_LEDGER and any(not reason_not_to_run(step) for step in steps_of(name))
    ],
)
def test_commands_do_what_the_document_shows(name: str, running: Shell) -> None:
    follow(running, name)


def test_each_reason_has_a_command() -> None:
    commands = [step.bare for name in DOCUMENTS for step in steps_of(name)]
    assert len(commands) > 40
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for command in commands)] == []


def test_the_comparison_notices_what_differs() -> None:
    shown = ["Lane 3 seq 17 of tenant default", "...", "●  api  ready  0  15620"]
    assert difference(shown, ["Lane 3 seq 9 of tenant default", "one", "two", "●   api   ready  0  31977"]) is None
    assert difference(shown, ["Lane 3 seq 9 of tenant other", "●   api   ready  0  31977"]) is not None
    assert difference(shown, ["Lane 3 seq 9 of tenant default", "●   api   ready  1  31977"]) is not None
    assert difference(shown, ["Lane 3 seq 9 of tenant default", "●   api   away  0  31977"]) is not None
    assert difference(["a"], ["a", "b"]) == "the document does not show 'b'"
    assert difference(["a", "b"], ["a"]) == "the document shows 'b', and there was 'nothing more'"
    assert difference([], ["whatever"]) is None
