"""The sentence about parts without a login names only the parts that this run started."""

import io

import pytest
from rich.console import Console

from cli.commands.status import render
from cli.status import StatusReport
from ops.embedded.open_parts import open_parts
from ops.run_state import PartState, RunState

BOTH = (
    "Kafka and the Schema Registry ask for no login: every program on this machine can read and write all topics and"
    " all schemas, for every tenant (docs/SECURITY.md)."
)
KAFKA = (
    "Kafka asks for no login: every program on this machine can read and write all topics, for every tenant"
    " (docs/SECURITY.md)."
)
REGISTRY = (
    "The Schema Registry asks for no login: every program on this machine can read and write all schemas, for every"
    " tenant (docs/SECURITY.md)."
)


def run_with(*names: str) -> RunState:
    parts = tuple(PartState(name, 1, 9092, "ready", 0, "a.log") for name in names)
    return RunState(1, 1, "2026-11-29T00:00:00Z", "running", parts=parts)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (run_with("kafka", "postgres", "registry"), BOTH),
        (run_with("postgres", "kafka"), KAFKA),
        (run_with("registry"), REGISTRY),
        (run_with("postgres"), None),
        (run_with(), None),
        (None, None),
    ],
)
def test_the_parts_that_a_run_started_are_named(state: RunState | None, told: str | None) -> None:
    assert open_parts(state) == told


@pytest.mark.parametrize("told", [BOTH, None])
def test_status_shows_the_sentence_and_wants_no_attention_for_it(told: str | None) -> None:
    page = io.StringIO()
    Console(file=page, width=400).print(render(StatusReport("running", None, None, open=told)))
    assert ("ask for no login" in page.getvalue()) is (told is not None)
    assert "!" not in page.getvalue()
