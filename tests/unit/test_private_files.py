"""Files under the home are private to their user with any umask, and files left open by earlier releases are fixed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ops.embedded.process import Child, Command, wait_until
from runtime.private_files import make_private
from runtime.settings import REPOSITORY_ROOT


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home as earlier releases made it with the usual umask."""
    home = tmp_path / "home"
    (home / "data" / "logs").mkdir(parents=True)
    (home / "data" / "logs" / "api.log").write_text("a line")
    (home / "cache").mkdir()
    (home / "cache" / "run.sh").write_text("#!/bin/sh")
    (home / "cache" / "run.sh").chmod(0o755)
    for folder in (home, home / "data", home / "data" / "logs", home / "cache"):
        folder.chmod(0o755)
    (home / "data" / "logs" / "api.log").chmod(0o644)
    return home


def test_what_is_open_is_closed_and_told_of_once(home: Path) -> None:
    told: list[str] = []
    make_private(home, told.append)
    modes = {path.relative_to(home).as_posix(): mode_of(path) for path in [home, *home.rglob("*")]}
    assert modes == {
        ".": 0o700,
        "data": 0o700,
        "data/logs": 0o700,
        "data/logs/api.log": 0o600,
        "cache": 0o700,
        "cache/run.sh": 0o700,
    }
    assert told == [f"other users had rights on 6 files and folders under {home}: they have none now"]
    make_private(home, told.append)
    assert len(told) == 1


def test_a_home_with_the_keys_of_audit_and_posting_is_ours(home: Path) -> None:
    for name in ("audit-key.pem", "audit-key.pub.pem", "posting-key.pem", "posting-key.pub.pem"):
        (home / name).write_text("a key")
        (home / name).chmod(0o644)
    told: list[str] = []
    make_private(home, told.append)
    assert mode_of(home) == 0o700
    assert {mode_of(file) for file in home.glob("*.pem")} == {0o600}
    assert told == [f"other users had rights on 10 files and folders under {home}: they have none now"]


def test_what_is_not_ours_is_left(home: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("x")
    theirs.chmod(0o644)
    (home / "data" / "link").symlink_to(theirs)
    (home / "letters").mkdir(mode=0o755)
    (home / "letters").chmod(0o755)
    told: list[str] = []
    make_private(home, told.append)
    assert [mode_of(path) for path in (theirs, home / "letters", home, home / "data")] == [0o644, 0o755, 0o755, 0o700]
    assert told[0].startswith(f"{home} has other files than Ledgerline's")


def test_a_group_may_pass_through_to_postgres(home: Path) -> None:
    make_private(home, lambda _: None)
    home.chmod(0o710)
    make_private(home, lambda _: None)
    assert mode_of(home) == 0o710


def test_a_home_that_is_not_there_is_made(tmp_path: Path) -> None:
    make_private(tmp_path / "new", lambda _: None)
    assert mode_of(tmp_path / "new") == 0o700


def test_what_a_child_makes_is_private_whatever_the_umask(tmp_path: Path) -> None:
    made = tmp_path / "made"
    before = os.umask(0)
    try:
        child = Child.spawn("touch", Command(argv=["touch", str(made)], log=tmp_path / "log", directory=tmp_path))
    finally:
        os.umask(before)
    assert wait_until(lambda: child.exit_code() == 0, timeout_seconds=10)
    assert mode_of(made) == 0o600


@pytest.mark.parametrize("arguments", ["cli audit keygen", "cli.supervision.supervisor --home HOME"])
def test_what_a_process_makes_is_private_whatever_the_umask(tmp_path: Path, arguments: str) -> None:
    """The supervisor fails because Kafka's address is invalid. The test looks at the files made before that."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    home = tmp_path / "home"
    given = {"LEDGERLINE_HOME": str(home), "LEDGERLINE_KAFKA_BOOTSTRAP": "127.0.0.1:none"}
    given |= {"LEDGERLINE_POSTGRES_DSN": "host=none", "LEDGERLINE_REGISTRY_URL": "http:none"}
    subprocess.run(
        [sys.executable, "-m", *arguments.replace("HOME", str(home)).split()],
        cwd=REPOSITORY_ROOT,
        env=variables | given,
        umask=0,
        capture_output=True,
        check=False,
        timeout=60,
    )
    found = {path.relative_to(tmp_path).as_posix(): mode_of(path) for path in tmp_path.rglob("*")}
    assert len(found) > 1
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}
