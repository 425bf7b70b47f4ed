"""docs/LOGS_AND_TRACES.md and the code name the same fields, spans, events and attributes."""

import json
import re

import structlog

from domain.outcomes import Outcome
from runtime import tracing
from runtime.settings import REPOSITORY_ROOT
from runtime.tracing import Attribute, Kind, SpanName
from streams.posting.metrics import STAGES
from tests.log_capture import captured_logs

DOCUMENT = (REPOSITORY_ROOT / "docs" / "LOGS_AND_TRACES.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """Return the other cells of each row, by the code in its first cell, of all tables with this first heading."""
    found: dict[str, list[str]] = {}
    for part in re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE):
        for line in part.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            name = cells[0].strip("`")
            assert name not in found, f"{name} is documented twice"
            found[name] = cells[1:]
    return found


def test_every_field_that_a_line_gets_by_itself_is_documented() -> None:
    token = tracing.current.set(tracing.Trace("order-1", f"00-{'1' * 32}-{'2' * 16}-01", has_span=True))
    try:
        with captured_logs() as stream:
            try:
                raise ValueError
            except ValueError:
                structlog.get_logger("ours").exception("failed")
    finally:
        tracing.current.reset(token)
    made = set(json.loads(stream.getvalue()))
    assert table("field").keys() == made | {"repeated"}


def test_the_example_is_a_line_as_it_is_written() -> None:
    (example,) = (
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    )
    with captured_logs() as stream:
        structlog.get_logger("streams.fenced").warning("waiting", agent="posting", cause="It is away.", seconds=0.2)
    assert json.loads(stream.getvalue()).keys() == example.keys()


def test_every_span_is_documented_with_its_kind() -> None:
    spans = table("span")
    assert spans.keys() == set(SpanName)
    assert {cells[0] for cells in spans.values()} == set(Kind)


def test_every_attribute_is_documented_with_its_spans() -> None:
    attributes = table("attribute")
    assert attributes.keys() == set(Attribute)
    for name, (spans, _) in attributes.items():
        assert spans == "all" or set(spans.split(", ")) <= set(SpanName), name


def test_every_outcome_has_its_attribute() -> None:
    counted = {name for name in Attribute if name.startswith("ledgerline.outcomes.")}
    assert counted == {f"ledgerline.outcomes.{outcome.value}" for outcome in Outcome}


def test_every_event_is_documented() -> None:
    (listed,) = re.findall(r"ends of its stages: (.*)\.$", DOCUMENT, re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed) == list(STAGES)


def test_bounds_are_as_documented() -> None:
    assert f"at most {tracing.LINKS_MAX} of the sampled spans" in DOCUMENT
    assert f"at most {tracing.RANGES_MAX} of them" in DOCUMENT
