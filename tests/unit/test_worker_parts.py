"""Which parts a worker runs, and what the part `webhooks` wants before it has looked at the table of webhooks."""

import pytest

from domain.topics import Topics
from runtime.schema_registry import SchemaRegistry
from streams.captures import Captures
from streams.worker import PARTS, PartsError, list_parts, name_agent


@pytest.mark.parametrize(
    ("wanted", "parts", "agent"),
    [
        ("", PARTS, "worker-reactions-outcomes-webhooks"),
        (" , ", PARTS, "worker-reactions-outcomes-webhooks"),
        ("intents, clock", ("intents", "clock"), None),
        ("webhooks,outbox,reactions", ("outbox", "reactions", "webhooks"), "worker-reactions-webhooks"),
    ],
)
def test_a_worker_runs_the_parts_that_its_setting_names(wanted: str, parts: tuple[str, ...], agent: str | None) -> None:
    assert list_parts(wanted) == parts
    assert name_agent(parts) == agent


def test_unknown_parts_are_refused_in_one_sentence() -> None:
    with pytest.raises(PartsError) as refused:
        list_parts("clock,clocks,calendar")
    assert str(refused.value).startswith("LEDGERLINE_WORKER_PARTS names calendar, clocks: choose from outbox, ")


def test_a_worker_that_starts_wants_what_waited_for_it() -> None:
    """A fetch comes before the first look at the webhooks. What it passes over, no webhook ever gets."""
    captures = Captures(Topics(""), SchemaRegistry("http://127.0.0.1:1"), kept_days=1)
    assert captures.wants([])
