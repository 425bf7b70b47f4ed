"""Runs `ledgerline` as users do: in its own process, with the environment of one test's ledger."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import cli
from cli.output import console, errors
from db.access import Scope
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.forked import COLUMNS, Forked, can_fork

SECONDS_MAX: Final = 60


def environment(settings: Settings) -> dict[str, str]:
    """Return the LEDGERLINE_* variables that name the test's ledger, and none of the caller's variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    assert settings.postgres_dsn is not None
    return inherited | {
        "LEDGERLINE_HOME": str(settings.home),
        "LEDGERLINE_KAFKA_BOOTSTRAP": str(settings.kafka_bootstrap),
        "LEDGERLINE_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "LEDGERLINE_REGISTRY_URL": str(settings.registry_url),
        "LEDGERLINE_TOPIC_PREFIX": settings.topic_prefix,
        "LEDGERLINE_LANES": str(settings.lanes),
        "COLUMNS": COLUMNS,
    }


def run(variables: dict[str, str], *arguments: str, code: int = 0, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command and check its exit code. No traceback may be shown."""
    done = _fork(variables, arguments, given) if can_fork(variables) else _start(variables, arguments, given)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def _fork(variables: dict[str, str], arguments: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        asked, out, told = (Path(folder) / name for name in ("given", "out", "told"))
        asked.write_text(given)
        process = Forked(("cli", *arguments), variables, out, told, asked)
        try:
            code = process.wait(SECONDS_MAX)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, code, out.read_text(), told.read_text())


def _start(variables: dict[str, str], arguments: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=REPOSITORY_ROOT,
        env=variables,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )


def all_scopes() -> list[str]:
    """Return the options that give a key every scope."""
    return [word for scope in Scope for word in ("--scope", scope.value)]


def run_json(variables: dict[str, str], *arguments: str, code: int = 0) -> Any:
    """Return the JSON that a command prints with --json."""
    return json.loads(run(variables, *arguments, "--json", code=code).stdout)


class Done(NamedTuple):
    """The result of a command that ran in this process: its exit code and its output."""

    code: int
    out: str
    told: str


@contextmanager
def _streams(out: TextIO | None, told: TextIO, given: str) -> Iterator[None]:
    before = sys.stdout, sys.stderr, sys.stdin
    sys.stdout, sys.stderr, sys.stdin = out, told, io.TextIOWrapper(io.BytesIO(given.encode()))  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.stdin = before
        for kept in (console, errors):
            with kept.capture():  # drop what could not be written
                pass


def _new_stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="", write_through=True)


def call(*arguments: str, encoding: str = "utf-8", given: str = "", out: TextIO | None = None) -> Done:
    """Run a command in this process, a hundred times as fast as `run`; the environment is the caller's.

    `out` takes the output in place of a buffer in memory. It can be a file that is full, for example.
    """
    written, told = _new_stream(encoding), _new_stream(encoding)
    with _streams(out or written, told, given):
        try:
            cli.main(arguments)
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Done(code, *(stream.buffer.getvalue().decode(encoding) for stream in (written, told)))  # type: ignore[attr-defined]


def told_in_one_sentence(done: Done, code: int) -> str:
    """Check that the command ended with this code and wrote one sentence on standard error; return that sentence."""
    assert done.code == code, done
    assert "Traceback" not in done.told, done.told
    assert len(done.told.splitlines()) == 1, done.told
    assert done.told.startswith("error: ")
    return done.told
